"""The systems of the paper by name: each model's fusion, and its last layer as the baseline."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import ExportError
from .backbones import resolve


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model with a choice of layers (Niizumi et al. 2022, Table III)."""

    name: str
    model: str
    layers: tuple[int, ...]

    @property
    def dim(self) -> int:
        """D of the embedding."""
        layers = resolve(self.model).layers
        return sum(layers[number].dim for number in self.layers)


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        f"{name}-{kind}": Preset(name=f"{name}-{kind}", model=model, layers=layers)
        for name, model, last, fusion in (
            ("cnn14", "cnn14_16k", (7,), (3, 6)),
            ("vggish", "vggish", (22,), (10, 15)),
            ("ast", "ast", (12,), (5, 12)),
        )
        for kind, layers in (("last", last), ("fusion", fusion))
    }
)


def preset(name: str) -> Preset:
    """The preset called ``name``.

    Raises:
        ExportError: there is none; the message lists all.
    """
    try:
        return PRESETS[name]
    except KeyError:
        names = ", ".join(PRESETS)
        raise ExportError(f"unknown preset {name!r}; the presets are {names}") from None
