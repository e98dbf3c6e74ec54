"""The catalogue of models that can be exported. Listing it needs no torch."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from ...errors import ExportError
from . import ast, cnn14, vggish
from .base import Backbone

__all__ = ["Backbone", "backbones", "resolve"]

_MODELS: tuple[Backbone, ...] = (*cnn14.MODELS, vggish.Vggish(), ast.Ast())
_BY_NAME = MappingProxyType(
    {name: model for model in _MODELS for name in (*model.aliases, model.name)}
)


def backbones() -> Mapping[str, Backbone]:
    """Every model by name; an alias maps to the same object as the name it stands for."""
    return _BY_NAME


def resolve(name: str) -> Backbone:
    """The model called ``name``.

    Raises:
        ExportError: there is none; the message names the nearest ones and lists all.
    """
    if not isinstance(name, str):
        raise TypeError(f"model must be a str, got {type(name).__name__}")
    try:
        return _BY_NAME[name]
    except KeyError:
        near = difflib.get_close_matches(name.lower(), _BY_NAME)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ExportError(
            f"unknown model {name!r}: {hint}The models are {', '.join(_BY_NAME)}"
        ) from None
