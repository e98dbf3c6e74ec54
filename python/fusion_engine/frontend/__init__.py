"""The frontend: from a clip's samples to its log-mel, in FP64 on the CPU, or by a CUDA kernel."""

from .cpu import Frontend
from .plan import frontend_plan
from .spec import PRESETS, FrontendSpec

__all__ = ["PRESETS", "Frontend", "FrontendSpec", "frontend_plan"]
