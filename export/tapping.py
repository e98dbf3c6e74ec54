"""A module that gives the outputs of its submodules: hooks, axes, and one common time axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import ExportError
from .strides import Alignment

if TYPE_CHECKING:
    import torch

Reduction = Literal["mean", "first", "first_two_mean"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
# Axes of a submodule's output: batch, channels, time, frequency, tokens.
AXES = ("BCTF", "BCFT", "BTFC", "BFTC", "BTC", "BCT", "BC", "BNC")
# Axes of the log-mel that a module takes: batch, one channel, time, mel bins.
InputAxes = Literal["B1TM", "B1MT", "BTM", "BMT"]
INPUT_AXES: tuple[InputAxes, ...] = get_args(InputAxes)


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


def tapped(
    module: torch.nn.Module,
    layers: Sequence[ModuleLayer],
    input_axes: InputAxes,
    alignment: Alignment | None = None,
) -> torch.nn.Module:
    """A module from log-mel [B, 1, T, M] to the layers' outputs, as [B, C, T, F] or [B, C].

    With an alignment, the maps that it says are fitted: they end at T_o · pool columns, or are
    continued up to there with their last column, which a max-pool does not see.
    """
    import torch

    class Tapped(torch.nn.Module):  # type: ignore[misc]  # torch is not type-checked
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with _caught(self.module, layers) as outputs:
                self.module(_turned(log_mel, input_axes))
            maps = [_arranged(layer, _once(layer, outputs)) for layer in layers]
            if alignment is not None and alignment.coarsest is not None:
                steps = maps[alignment.coarsest].shape[2]
                for index, (pool, fitted) in enumerate(
                    zip(alignment.pools, alignment.fitted, strict=True)
                ):
                    if fitted:
                        maps[index] = _ending_at(maps[index], steps * pool)
            return tuple(maps)

    return Tapped().eval()


def input_shape(input_axes: InputAxes, frames: int, n_mels: int) -> list[int]:
    """Shape of one clip's log-mel for the module."""
    sizes = {"B": 1, "1": 1, "T": frames, "M": n_mels}
    return [sizes[axis] for axis in input_axes]


def _turned(log_mel: torch.Tensor, input_axes: InputAxes) -> torch.Tensor:
    if not input_axes.startswith("B1"):
        log_mel = log_mel[:, 0]
    return log_mel.transpose(-1, -2) if input_axes.endswith("MT") else log_mel


def _ending_at(output: torch.Tensor, columns: int) -> torch.Tensor:
    import torch

    wanted = torch.arange(columns, device=output.device)
    return output.index_select(2, wanted.clamp(max=output.shape[2] - 1))


@contextmanager
def _caught(
    module: torch.nn.Module, layers: Sequence[ModuleLayer]
) -> Iterator[Mapping[str, list[Any]]]:
    """What each layer's submodule returns while the block runs."""
    outputs: dict[str, list[Any]] = {layer.name: [] for layer in layers}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs[name].append(output)

    # One hook a submodule: two layers may be two poolings of the same tokens.
    hooks = [module.get_submodule(name).register_forward_hook(keep(name)) for name in outputs]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _once(layer: ModuleLayer, outputs: Mapping[str, list[Any]]) -> torch.Tensor:
    """The tensor that the layer's submodule returned.

    Blocks of transformers return it in a tuple, encoders as ``last_hidden_state``.
    """
    import torch

    calls = outputs[layer.name]
    if len(calls) != 1:
        raise ExportError(
            f"submodule {layer.name!r} ran {len(calls)} times in one pass, expected once: choose "
            "another one"
        )
    (output,) = calls
    if isinstance(output, tuple | list) and output:
        output = output[0]
    output = getattr(output, "last_hidden_state", output)
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
