"""The runtime: backends, the cutting of clips, and the engine. Never imports torch."""

from .pipeline import Engine, EngineStats

__all__ = ["Engine", "EngineStats"]
