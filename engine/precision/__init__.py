"""Half precision: the typed graph for TensorRT, its emulation on the CPU, and activation ranges.

Needs onnx and NumPy only.
"""

from .graphs import Precision, emulated_model, typed_model
from .plan import PrecisionPlan, Rule
from .rounding import HalfPrecision

__all__ = [
    "HalfPrecision",
    "Precision",
    "PrecisionPlan",
    "Rule",
    "emulated_model",
    "typed_model",
]
