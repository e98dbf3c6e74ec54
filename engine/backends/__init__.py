"""The backends on host arrays."""

from .base import Backend
from .onnx_runtime import OnnxRuntimeBackend

__all__ = ["Backend", "OnnxRuntimeBackend"]
