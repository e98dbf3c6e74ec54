"""Half precision: the typed graph for TensorRT, its emulation on the CPU, and activation ranges.

Needs onnx and NumPy only.
"""

from .graphs import emulated_model, typed_model
from .ranges import check_ranges
from .rounding import HalfPrecision, Precision
from .rules import PrecisionPlan, Rule
from .skeleton import Skeleton

__all__ = [
    "HalfPrecision",
    "Precision",
    "PrecisionPlan",
    "Rule",
    "Skeleton",
    "check_ranges",
    "emulated_model",
    "typed_model",
]
