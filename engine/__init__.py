"""From an artifact and audio to embeddings. Never imports torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import Engine
    from .stats import EngineStats

__all__ = ["Engine", "EngineStats"]

# Resolved at first use: plans are built and read without the native module.
_LAZY = {"Engine": ".engine", "EngineStats": ".stats"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
