"""The largest relative L2 error of an embedding that 8 bits may have, by model."""

from typing import Literal

EightBits = Literal["int8", "fp8"]
EIGHT_BITS: tuple[EightBits, ...] = ("int8", "fp8")

# About twice what was measured; "" stands for any other model.
_BOUNDS = {
    "int8": {"cnn14": 0.1, "vggish": 0.06, "ast": 0.05, "": 0.1},
    "fp8": {"cnn14": 0.25, "vggish": 0.15, "ast": 0.14, "": 0.25},
}


def bound_of(model: str, precision: EightBits) -> float:
    """The bound of a model, for example ``cnn14_16k``, in 8 bits."""
    bounds = _BOUNDS[precision]
    return bounds.get(model.partition("_")[0], bounds[""])
