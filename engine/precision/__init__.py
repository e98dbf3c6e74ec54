"""Half precision: the typed graph for TensorRT, its emulation on the CPU, and activation ranges.

Needs onnx and NumPy only.
"""

from .emulation import emulated_model
from .frontend_part import cut_frontend_part
from .ranges import check_ranges
from .rounding import HalfPrecision, Precision
from .rules import GraphRules, Rule
from .skeleton import Skeleton
from .typed import typed_model

__all__ = [
    "GraphRules",
    "HalfPrecision",
    "Precision",
    "Rule",
    "Skeleton",
    "check_ranges",
    "cut_frontend_part",
    "emulated_model",
    "typed_model",
]
