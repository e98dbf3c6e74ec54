"""The frontend: from a clip's samples to its log-mel, in FP64 on the CPU, or by a CUDA kernel."""

from .cpu import Frontend
from .spec import PRESETS, FrontendSpec
from .tables import frontend_tables

__all__ = ["PRESETS", "Frontend", "FrontendSpec", "frontend_tables"]
