"""The frontend: from a clip's samples to its log-mel, in FP64 on the CPU, or by a CUDA kernel."""

from .cpu import Frontend
from .frontend_spec import FRONTENDS, FrontendSpec
from .tables import frontend_tables

__all__ = ["FRONTENDS", "Frontend", "FrontendSpec", "frontend_tables"]
