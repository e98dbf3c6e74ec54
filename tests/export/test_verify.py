import numpy as np
import pytest

from fusion_engine.export import LayerCheck, resolve
from fusion_engine.export.verify import TOLERANCE, verification_inputs


@pytest.mark.parametrize(
    ("max_abs", "max_value", "passed"),
    [
        (4.9e-6, 1.0, True),
        (5.1e-6, 1.0, False),
        (4.9e-4, 100.0, True),
        (0.0, 0.0, True),
        (1.0, 0.0, False),
        (float("nan"), 1.0, False),
        (1.0, float("nan"), False),
        (float("inf"), 1.0, False),
        (float("inf"), float("inf"), False),
    ],
)
def test_what_passes(max_abs: float, max_value: float, passed: bool) -> None:
    check = LayerCheck(name="layer_1", max_abs=max_abs, max_value=max_value)
    assert check.tolerance == TOLERANCE
    assert check.passed is passed


@pytest.mark.parametrize(
    ("name", "shape", "low", "high"),
    [
        # ln(0.01) and beyond ln(10) for a magnitude; a power's floor and 20 dB, normalised.
        ("vggish", (2, 1, 96, 64), -4.61, 2.31),
        ("ast", (2, 1, 1024, 128), -1.28, 0.98),
    ],
)
def test_inputs_follow_the_frontend(
    name: str, shape: tuple[int, ...], low: float, high: float
) -> None:
    """One input of the one length, within what the frontend gives for -100 to 20 dB."""
    (x,) = verification_inputs(resolve(name))
    assert x.shape == shape
    assert low <= x.min() < 0.9 * low
    assert 0.5 * high < x.max() <= high


def test_inputs_are_like_log_mel() -> None:
    model = resolve("cnn14")
    inputs = verification_inputs(model)
    assert [x.shape for x in inputs] == [(2, 1, 32, 64), (2, 1, 101, 64)]
    for x, again in zip(inputs, verification_inputs(model), strict=True):
        assert np.array_equal(x, again)
        assert x.dtype == np.float32
        assert x.min() >= -100.0
        assert x.max() <= 20.0
        assert 10.0 < x.std() < 40.0
        assert not np.array_equal(x[0], x[1])
