"""Export of any ``torch.nn.Module`` with the outputs of its submodules as layers."""

from __future__ import annotations

import copy
import difflib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .._atomic import atomic_path
from ..errors import ExportError
from ..frontend import FrontendSpec
from ..spec import LayerSpec, SegmentRule, Spec, WeightsSource
from .checkpoint import state_sha256
from .exporter import frames_of, onnx_path, report_on, require_libraries, write_verified
from .report import ExportReport

if TYPE_CHECKING:
    import torch

Reduction = Literal["mean", "first", "first_two_mean"]
# Axes of a submodule's output: batch, channels, time, frequency, tokens.
AXES = ("BCTF", "BCFT", "BTFC", "BFTC", "BTC", "BCT", "BC", "BNC")


@dataclass(frozen=True, kw_only=True)
class ModuleLayer:
    """One submodule whose output becomes a layer.

    Args:
        name: as ``named_modules`` has it, for example ``blocks.4``.
        axes: the order of the output's axes, one of ``AXES``; ``BNC`` are tokens.
        tokens: what becomes of tokens: their mean, the first one, or the mean of the first two.
    """

    name: str
    axes: str
    tokens: Reduction = "mean"


def export_module(
    module: torch.nn.Module,
    output: str | os.PathLike[str],
    *,
    layers: Sequence[str | ModuleLayer],
    frontend: FrontendSpec,
    name: str | None = None,
    input_axes: Literal["B1TM", "BTM"] = "B1TM",
    frames: int | None = None,
    seconds: float | None = None,
    last: Literal["drop", "pad"] = "drop",
    dynamic_from: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Write any module as an artifact that the engine runs, verified against its FP64 self.

    The module is run in evaluation mode; it is neither changed nor moved. Eq. 1's time pools are
    inferred: the coarsest map sets T_o, and every other map's length must be a multiple.

    Args:
        module: takes log-mel as ``input_axes`` says; what it returns does not matter.
        output: the ``.onnx`` file to write.
        layers: submodules in the order of Eq. 2, numbered from 1. A bare name means ``BCTF`` for an
            output with four axes and ``BC`` for one with two; anything else must say its axes.
        frontend: what the module was trained with.
        name: of the model, in the spec; the class name by default.
        input_axes: with or without a channel axis.
        frames: the one input length in frames of log-mel; longer clips are cut into segments.
        seconds: the same in seconds; give one of the two, or ``dynamic_from``.
        last: an incomplete last segment is dropped, or its log-mel padded with zeros before the
            normalisation. A clip shorter than one segment is padded in either case.
        dynamic_from: the fewest frames, for a module that takes any length; ``frames`` or
            ``seconds`` are then the most, 60 s by default. A longer clip is refused.
        progress: called with a few words at the start of each step.

    Raises:
        ExportError: an unknown submodule (the nearest are named), one that is not run exactly once,
            axes that do not fit, lengths that no pooling aligns, a failed check.
        BackendError: torch, onnxscript or onnxruntime is missing.
        FusionEngineError: ``output`` cannot be written.
    """
    started = time.perf_counter()
    path = onnx_path(output)
    require_libraries()
    wanted = [_layer(layer, module) for layer in layers]
    if not wanted:
        raise ExportError(f"no layer was asked for; {_submodules(module)}")
    length = frames_of(frontend, seconds, frames)
    if length is None:
        if dynamic_from is None:
            raise ExportError(
                "give the input length, frames= or seconds=, or dynamic_from= for a module that "
                "takes any length"
            )
        length = frontend.frames(60 * frontend.sample_rate)

    def step(text: str) -> None:
        if progress is not None:
            progress(text)

    step("running the module")
    exact = copy.deepcopy(module).double().eval()
    # In FP64 as well: one copy is enough to learn the shapes.
    lengths = (length,) if dynamic_from is None else _lengths(dynamic_from, length)
    shapes = [_shapes(exact, wanted, input_axes, frontend.n_mels, t) for t in lengths]
    specs, frames_per_step = _specs(wanted, shapes, lengths)
    fixed = dynamic_from is None
    spec = Spec(
        model=name or type(module).__name__,
        layers=specs,
        embedding_dim=sum(layer.dim for layer in specs),
        frontend=frontend,
        frames_per_step=frames_per_step,
        segment=SegmentRule(frames=length, last=last) if fixed else None,
        min_frames=length if dynamic_from is None else dynamic_from,
        max_frames=length,
        weights=WeightsSource(source="module", sha256=state_sha256(module.state_dict())),
    )
    graph = tapped(copy.deepcopy(module).float().eval(), wanted, input_axes)
    reference = tapped(exact, wanted, input_axes)
    with atomic_path(path) as temporary:
        measured = write_verified(temporary, spec, graph, reference, step)
        return report_on(path, temporary, spec, measured, started)


def tapped(
    module: torch.nn.Module, layers: Sequence[ModuleLayer], input_axes: str
) -> torch.nn.Module:
    """A module from log-mel [B, 1, T, M] to the layers' outputs, as [B, C, T, F] or [B, C]."""
    import torch

    class Tapped(torch.nn.Module):  # type: ignore[misc]  # torch is not type-checked
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with _caught(self.module, layers) as outputs:
                self.module(log_mel if input_axes == "B1TM" else log_mel[:, 0])
            return tuple(_arranged(layer, _once(layer, outputs)) for layer in layers)

    return Tapped().eval()


@contextmanager
def _caught(
    module: torch.nn.Module, layers: Sequence[ModuleLayer]
) -> Iterator[Mapping[str, list[Any]]]:
    """What each layer's submodule returns while the block runs."""
    outputs: dict[str, list[Any]] = {layer.name: [] for layer in layers}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs[name].append(output)

    hooks = [
        module.get_submodule(layer.name).register_forward_hook(keep(layer.name)) for layer in layers
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _once(layer: ModuleLayer, outputs: Mapping[str, list[Any]]) -> torch.Tensor:
    """The tensor that the layer's submodule returned; transformers' blocks return it in a tuple."""
    import torch

    calls = outputs[layer.name]
    if len(calls) != 1:
        raise ExportError(
            f"submodule {layer.name!r} ran {len(calls)} times in one pass, expected once: choose "
            "another one"
        )
    output = calls[0][0] if isinstance(calls[0], tuple | list) and calls[0] else calls[0]
    if not isinstance(output, torch.Tensor):
        raise ExportError(
            f"submodule {layer.name!r} returns {type(output).__name__}, expected a tensor: choose "
            "one inside it"
        )
    return output


def _arranged(layer: ModuleLayer, output: torch.Tensor) -> torch.Tensor:
    """The output as a map [B, C, T, F] or a vector [B, C]."""
    axes = layer.axes or {4: "BCTF", 2: "BC"}.get(output.ndim, "")
    if len(axes) != output.ndim:
        raise ExportError(
            f"submodule {layer.name!r} returns the shape {list(output.shape)}; say what its axes "
            f"are: ModuleLayer(name={layer.name!r}, axes=…) with one of {', '.join(AXES)}"
        )
    if axes == "BC":
        return output
    if axes == "BNC":
        if layer.tokens == "mean":
            return output.mean(dim=1)
        return output[:, 0] if layer.tokens == "first" else output[:, :2].mean(dim=1)
    if output.ndim == 3:
        output, axes = output[..., None], axes + "F"
    return output.permute([axes.index(axis) for axis in "BCTF"])


def _layer(layer: str | ModuleLayer, module: torch.nn.Module) -> ModuleLayer:
    """The layer, once its submodule is known to exist."""
    if isinstance(layer, str):
        layer = ModuleLayer(name=layer, axes="")
    elif layer.axes not in AXES:
        raise ExportError(f"axes={layer.axes!r} of {layer.name!r}, expected one of {list(AXES)}")
    if layer.name not in dict(module.named_modules()) or not layer.name:
        raise ExportError(f"unknown submodule {layer.name!r}; {_submodules(module, layer.name)}")
    return layer


def _submodules(module: torch.nn.Module, near: str = "") -> str:
    names = [name for name, _ in module.named_modules() if name]
    found = difflib.get_close_matches(near, names, n=5, cutoff=0.4) or names[:10]
    return f"{type(module).__name__} has {', '.join(found)}" + (
        f" and {len(names) - len(found)} more" if len(names) > len(found) else ""
    )


def _lengths(least: int, most: int) -> tuple[int, ...]:
    """Lengths at which the inferred pooling must hold: the shortest, odd ones, a long one."""
    candidates = (least, least + 1, 2 * least + 1, 3 * least + 5, 16 * least - 1)
    return tuple(sorted({min(t, most) for t in candidates}))


def _shapes(
    module: torch.nn.Module,
    layers: Sequence[ModuleLayer],
    input_axes: str,
    n_mels: int,
    frames: int,
) -> list[tuple[int, ...]]:
    """The layers' shapes for one clip of ``frames`` frames."""
    import torch

    with torch.inference_mode():
        try:
            outputs = tapped(module, layers, input_axes)(
                torch.zeros(1, 1, frames, n_mels, dtype=torch.float64)
            )
        except ExportError:
            raise
        except Exception as error:  # whatever the caller's module raises
            axes = (
                f"[1, 1, {frames}, {n_mels}]"
                if input_axes == "B1TM"
                else f"[1, {frames}, {n_mels}]"
            )
            raise ExportError(
                f"{type(module).__name__} does not run on log-mel {axes}: {error}. Check the "
                "frontend's n_mels, input_axes and the length."
            ) from error
    return [tuple(output.shape[1:]) for output in outputs]


def _specs(
    layers: Sequence[ModuleLayer],
    shapes: Sequence[Sequence[tuple[int, ...]]],
    lengths: Sequence[int],
) -> tuple[tuple[LayerSpec, ...], int | None]:
    """The layers with their inferred time pools, and the frames of log-mel per frame feature."""
    longest = shapes[-1]
    times = [shape[1] for shape in longest if len(shape) == 3]
    steps = min(times, default=0)
    frames_per_step = lengths[-1] // steps if steps else None
    specs = []
    for number, (layer, shape) in enumerate(zip(layers, longest, strict=True), start=1):
        if len(shape) == 1:
            specs.append(
                LayerSpec(number=number, kind="vector", channels=shape[0], module=layer.name)
            )
            continue
        channels, time_axis, freq = shape
        specs.append(
            LayerSpec(
                number=number,
                kind="map",
                channels=channels,
                freq=freq,
                time_pool=max(1, time_axis // steps) if steps else 1,
                module=layer.name,
            )
        )
    for length, at in zip(lengths, shapes, strict=True):
        for layer, spec, shape in zip(layers, specs, at, strict=True):
            if spec.kind == "map" and (
                frames_per_step is None
                or shape[1] // spec.time_pool != length // frames_per_step
                or shape[1] < spec.time_pool
            ):
                raise ExportError(
                    f"submodule {layer.name!r} gives {shape[1]} steps for {length} frames, and no "
                    f"pooling aligns that with the other layers ({frames_per_step} frames per step "
                    "were inferred). Fix the length with frames= or seconds=, to a multiple of the "
                    "module's stride."
                )
    return tuple(specs), frames_per_step
