"""Export of any ``torch.nn.Module`` with the outputs of its submodules as layers."""

from __future__ import annotations

import difflib
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from .._atomic import atomic_path
from ..errors import ArtifactError, ExportError
from ..frontend import FrontendSpec
from ..spec import LayerSpec, SegmentRule, Spec, WeightsSource
from .checkpoint import state_sha256
from .copies import computing_in_fp64, copied
from .export_report import ExportReport
from .exporter import input_frames, onnx_path, require_libraries, write_artifact
from .foreign import foreign
from .strides import Alignment, align_dynamic, align_fixed
from .tapping import (
    AXES,
    INPUT_AXES,
    REDUCTIONS,
    InputAxes,
    ModuleLayer,
    input_shape,
    tapped,
)

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Of every layer for one clip: [C, T, F] or [C].
_Shapes = Sequence[tuple[int, ...]]


def export_module(
    module: torch.nn.Module,
    output: str | os.PathLike[str],
    *,
    layers: Sequence[str | ModuleLayer],
    frontend: FrontendSpec,
    name: str | None = None,
    input_axes: InputAxes = "B1TM",
    frames: int | None = None,
    seconds: float | None = None,
    last: Literal["drop", "pad"] = "drop",
    dynamic_from: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Write any module as an artifact that the engine runs, verified against its FP64 self.

    The module is run in evaluation mode on the CPU; it is neither changed nor moved. Half
    precision is exported in FP32. Eq. 1's time pools are inferred: the coarsest map sets T_o.

    Args:
        module: takes log-mel as ``input_axes`` says; what it returns does not matter.
        output: the ``.onnx`` file to write. Above 2 GB the weights go into ``OUTPUT.data``.
        layers: submodules in the order of Eq. 2, numbered from 1. A bare name means ``BCTF`` for an
            output with four axes and ``BC`` for one with two; anything else must say its axes.
        frontend: what the module was trained with.
        name: of the model, in the spec; the class name by default.
        input_axes: with or without a channel axis, time before the mel bins or after them.
        frames: the one input length in frames of log-mel; longer clips are cut into segments.
        seconds: the same in seconds; give one of the two, or ``dynamic_from``.
        last: an incomplete last segment is dropped, or its log-mel padded with zeros before the
            normalisation. A clip shorter than one segment is padded in either case.
        dynamic_from: the fewest frames, for a module that takes any length; ``frames`` or
            ``seconds`` are then the most, 60 s by default. A longer clip is refused.
        progress: called with a few words at the start of each step.

    Raises:
        ExportError: an unknown submodule (the nearest are named), one that is not run exactly once,
            axes that do not fit, lengths that no pooling aligns, whatever the module or torch
            raises, a failed check.
        BackendError: torch, onnxscript or onnxruntime is missing.
        FusionEngineError: ``output`` cannot be written.
        TypeError: no module, or a length that is no number.
    """
    started = time.perf_counter()
    path = onnx_path(output)
    require_libraries()
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if isinstance(module, torch.jit.ScriptModule):
        raise ExportError("the module is TorchScript: give the module that it was made from")
    module = getattr(module, "_orig_mod", module)  # what torch.compile was given
    if input_axes not in INPUT_AXES:
        raise ExportError(f"input_axes={input_axes!r}, expected one of {list(INPUT_AXES)}")
    wanted = _layers(layers, module)
    least, most = _range(frontend, frames, seconds, dynamic_from)

    def step(text: str) -> None:
        logger.info("%s: %s", type(module).__name__, text)
        if progress is not None:
            progress(text)

    step("running the module")
    # In FP64 as well: one copy is enough to learn the shapes.
    exact = copied(module, torch.float64)
    run = tapped(exact, wanted, input_axes)

    @cache
    def shapes(length: int) -> _Shapes:
        return _shapes(run, type(module).__name__, input_axes, length, frontend.n_mels)

    def steps(length: int) -> list[int | None]:
        return [shape[1] if len(shape) == 3 else None for shape in shapes(length)]

    names = [layer.name for layer in wanted]
    if dynamic_from is None:
        alignment = align_fixed(names, steps, most)
    else:
        alignment = align_dynamic(names, steps, least, most)
    specs = _specs(wanted, shapes(least), alignment)
    spec = _spec(
        model=name or type(module).__name__,
        layers=specs,
        embedding_dim=sum(layer.dim for layer in specs),
        frontend=frontend,
        frames_per_step=alignment.frames_per_step,
        step_offset=alignment.step_offset,
        segment=SegmentRule(frames=most, last=last) if dynamic_from is None else None,
        min_frames=least,
        max_frames=most,
        weights=WeightsSource(source="module", sha256=_sha256(module)),
    )
    graph = tapped(copied(module, torch.float32), wanted, input_axes, alignment)
    reference = tapped(exact, wanted, input_axes, alignment)

    def in_fp64(log_mel: torch.Tensor) -> Sequence[torch.Tensor]:
        with foreign(f"{type(module).__name__} does not run in FP64"), computing_in_fp64():
            found: Sequence[torch.Tensor] = reference(log_mel)
            return found

    def in_fp32(log_mel: torch.Tensor) -> Sequence[torch.Tensor]:
        with foreign(f"{type(module).__name__} does not run in FP32"), torch.inference_mode():
            found: Sequence[torch.Tensor] = graph(log_mel)
            return found

    with atomic_path(path) as temporary:
        return write_artifact(
            path, temporary, spec, graph, in_fp64, peer=in_fp32, step=step, started=started
        )


def _spec(**fields: Any) -> Spec:
    try:
        return Spec(**fields)
    except ArtifactError as error:  # a frontend or a number of layers that no engine takes
        raise ExportError(f"this module cannot be an artifact: {error}") from error


def _layers(layers: Sequence[str | ModuleLayer], module: torch.nn.Module) -> list[ModuleLayer]:
    """The layers, once their submodules are known to exist."""
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of submodules, got the str {layers!r}")
    wanted = [_layer(layer, module) for layer in layers]
    if not wanted:
        raise ExportError(f"no layer was asked for; {_submodules(module)}")
    for layer in wanted:
        if wanted.count(layer) > 1:
            raise ExportError(f"layers name {layer.name!r} twice: leave one out")
    return wanted


def _layer(layer: str | ModuleLayer, module: torch.nn.Module) -> ModuleLayer:
    if isinstance(layer, str):
        layer = ModuleLayer(name=layer, axes="")
    elif not isinstance(layer, ModuleLayer):
        raise TypeError(f"a layer must be a str or a ModuleLayer, got {type(layer).__name__}")
    elif layer.axes not in AXES:
        raise ExportError(f"axes={layer.axes!r} of {layer.name!r}, expected one of {list(AXES)}")
    elif layer.tokens not in REDUCTIONS:
        raise ExportError(
            f"tokens={layer.tokens!r} of {layer.name!r}, expected one of {list(REDUCTIONS)}"
        )
    if layer.name not in _names(module):
        raise ExportError(f"unknown submodule {layer.name!r}; {_submodules(module, layer.name)}")
    return layer


def _names(module: torch.nn.Module) -> list[str]:
    """Of all submodules; one that is used under two names has both."""
    return [name for name, _ in module.named_modules(remove_duplicate=False) if name]


def _submodules(module: torch.nn.Module, near: str = "") -> str:
    names = _names(module)
    found = difflib.get_close_matches(near, names, n=5, cutoff=0.4) or names[:10]
    return f"{type(module).__name__} has {', '.join(found)}" + (
        f" and {len(names) - len(found)} more" if len(names) > len(found) else ""
    )


def _range(
    frontend: FrontendSpec, frames: int | None, seconds: float | None, dynamic_from: int | None
) -> tuple[int, int]:
    """The fewest and the most frames of log-mel."""
    for what, value in (("frames", frames), ("dynamic_from", dynamic_from)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError(f"{what} must be an int, got {value!r}")
        if value is not None and value < 1:
            raise ExportError(f"{what}={value}, expected at least 1")
    most = input_frames(frontend, seconds, frames)
    if most is None:
        if dynamic_from is None:
            raise ExportError(
                "give the input length, frames= or seconds=, or dynamic_from= for a module that "
                "takes any length"
            )
        most = frontend.frames(60 * frontend.sample_rate)
    if most < 1:
        raise ExportError(f"seconds={seconds} are no frame of log-mel: give more")
    least = most if dynamic_from is None else dynamic_from
    if least > most:
        raise ExportError(f"dynamic_from={least} is above the most frames, {most}")
    return least, most


def _shapes(
    run: torch.nn.Module, name: str, input_axes: InputAxes, frames: int, n_mels: int
) -> _Shapes:
    """The layers' shapes for one clip of ``frames`` frames."""
    import torch

    with (
        foreign(
            f"{name} does not run on log-mel {input_shape(input_axes, frames, n_mels)}",
            "Check the frontend's n_mels, input_axes and the length",
        ),
        computing_in_fp64(),
    ):
        outputs = run(torch.zeros(1, 1, frames, n_mels, dtype=torch.float64))
        return [tuple(output.shape[1:]) for output in outputs]


def _specs(
    layers: Sequence[ModuleLayer], shapes: _Shapes, alignment: Alignment
) -> tuple[LayerSpec, ...]:
    """The layers as the spec has them, numbered from 1."""
    return tuple(
        LayerSpec(number=number, kind="vector", channels=shape[0], module=layer.name)
        if len(shape) == 1
        else LayerSpec(
            number=number,
            kind="map",
            channels=shape[0],
            freq=shape[2],
            time_pool=pool,
            module=layer.name,
        )
        for number, (layer, shape, pool) in enumerate(
            zip(layers, shapes, alignment.pools, strict=True), start=1
        )
    )


def _sha256(module: torch.nn.Module) -> str:
    """SHA-256 of the parameters and buffers as they are, in bytes that NumPy can read."""
    import torch

    state = {
        name: tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, torch.Tensor)
    }
    return state_sha256(state)
