"""The runtime: backends, the cutting of clips, and the engine. Never imports torch."""

from .pipeline import Engine
from .stats import EngineStats

__all__ = ["Engine", "EngineStats"]
