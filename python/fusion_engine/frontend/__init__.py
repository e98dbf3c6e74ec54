"""The frontend: from a clip's samples to its log-mel, in FP64 on the CPU."""

from .cpu import Frontend
from .spec import PRESETS, FrontendSpec

__all__ = ["PRESETS", "Frontend", "FrontendSpec"]
