"""Rounding FP32 to half precision, to nearest, ties to even."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Precision = Literal["fp32", "tf32", "fp16", "bf16"]
HalfPrecision = Literal["fp16", "bf16"]


def half_bits(values: NDArray[np.float32], precision: HalfPrecision) -> NDArray[np.uint16]:
    """The bits of ``values`` in FP16 or BF16; what is beyond the range becomes infinite."""
    if precision == "fp16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    bits = values.reshape(-1).view(np.uint32)
    # A half of the last place kept, less one where that place is even: ties go to even.
    half = (bits >> 16) & 1
    half += 0x7FFF
    half += bits
    half >>= 16
    rounded = half.astype(np.uint16)
    # The carry would turn a NaN into an infinity.
    rounded[np.isnan(values).reshape(-1)] = 0x7FC0
    return rounded.reshape(values.shape)


def widened(bits: NDArray[np.uint16], precision: HalfPrecision) -> NDArray[np.float32]:
    """FP16 or BF16 bits as FP32, exactly."""
    if precision == "fp16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)
