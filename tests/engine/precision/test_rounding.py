"""Rounding against NumPy's float16 and ml_dtypes' bfloat16."""

import ml_dtypes
import numpy as np
import pytest

from fusion_engine.engine.precision.rounding import half_bits, widened

TYPES = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}


def bit_patterns() -> np.ndarray:
    """FP32 of all exponents: random bits, exact ties of both types, ends of their ranges, zeros."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    ties_bf16 = bits[:50_000] & 0xFFFF0000 | 0x8000
    ties_fp16 = bits[50_000:100_000] & 0xFFFFE000 | 0x1000
    named = [0.0, -0.0, 65504.0, 65519.99, 65520.0, 1e5, -1e5, 2.0**-24, 2.0**-25, 3e-8, 1e-45]
    named += [3.39e38, 3.4e38, np.inf, -np.inf, np.nan]
    # NaNs whose payload would carry into an infinity, or lose all its bits.
    nans = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF800001], np.uint32)
    return np.concatenate([bits, ties_bf16, ties_fp16, nans, np.float32(named).view(np.uint32)])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_value_is_rounded_as_by_others(precision: str) -> None:
    values = bit_patterns().view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(TYPES[precision])
        got = half_bits(values, precision)
    nan = np.isnan(values)
    assert np.isnan(got.view(TYPES[precision])[nan].astype(np.float32)).all()
    assert np.array_equal(got[~nan], expected.view(np.uint16)[~nan])
    back = widened(got, precision)
    assert back.dtype == np.float32
    assert np.array_equal(back[~nan], expected.astype(np.float32)[~nan])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
def test_the_shape_stays(precision: str, shape: tuple[int, ...]) -> None:
    values = np.full(shape, 0.1, np.float32)
    bits = half_bits(values, precision)
    assert bits.shape == widened(bits, precision).shape == shape
    assert np.array_equal(bits.view(TYPES[precision]), values.astype(TYPES[precision]))
