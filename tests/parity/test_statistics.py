import numpy as np
import pytest

from fusion_engine.parity.certificate import LARGEST_BOUND, compared
from fusion_engine.parity.statistics import ErrorMeter

# A bin of the histogram that gives the quantiles is 2^-8 of its value wide.
BIN = 2.0**-8


@pytest.fixture
def clips() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    out = {}
    for name, size, noise in (("a", 30_000, 1e-3), ("b", 500, 1e-2)):
        expected = np.maximum(rng.standard_normal((size // 50, 50)), 0.0) * 10.0
        got = (expected + noise * rng.standard_normal(expected.shape)).astype(np.float32)
        out[name] = got, expected
    return out


@pytest.mark.parametrize("order", [(1.5, 1.0), (1.0, 1.5)])
def test_clips_of_one_name(order) -> None:
    """Such as two signals that differ in their seed: the worse one counts, whichever comes last."""
    meter = ErrorMeter()
    for value in order:
        meter.add("noise 1 s", np.array([value], np.float32), np.array([1.0]))
    assert meter.result().error == 0.5


def test_against_numpy(clips) -> None:
    meter = ErrorMeter()
    for name, (got, expected) in clips.items():
        meter.add(name, got, expected)
    found = meter.result()
    got, expected = (
        np.concatenate([pair[i].ravel().astype(np.float64) for pair in clips.values()])
        for i in (0, 1)
    )
    absolute = np.abs(got - expected)
    relative = absolute[expected > 0] / expected[expected > 0]
    for values, suffix in ((absolute, "absdiff"), (relative, "reldiff")):
        assert getattr(found, f"max_{suffix}") == values.max()
        assert getattr(found, f"mean_{suffix}") == pytest.approx(values.mean(), rel=1e-12)
        median, quantile = np.quantile(values, [0.5, 0.999], method="inverted_cdf")
        assert getattr(found, f"median_{suffix}") == pytest.approx(median, rel=BIN)
        assert getattr(found, f"quantile_{suffix}") == pytest.approx(quantile, rel=BIN)
    errors = {k: np.abs(g - e).max() / e.max() for k, (g, e) in clips.items()}
    assert (found.error, found.worst_clip) == (errors["b"], "b")
    assert errors["b"] > errors["a"]
    cosines, lengths = [], []
    for g, e in clips.values():
        g = g.astype(np.float64).ravel()
        e = e.ravel()
        cosines.append(g @ e / np.sqrt((g @ g) * (e @ e)))
        lengths.append(np.linalg.norm(g - e) / np.linalg.norm(e))
    assert found.cosine_min == pytest.approx(min(cosines), rel=1e-14)
    assert found.cosine_mean == pytest.approx(np.mean(cosines), rel=1e-14)
    assert found.l2_relative == pytest.approx(max(lengths), rel=1e-12)
    assert found.max_value == expected.max()
    assert (found.elements, found.non_finite) == (expected.size, 0)


def test_equal_outputs() -> None:
    meter = ErrorMeter()
    meter.add("a", np.arange(5, dtype=np.float32), np.arange(5.0))
    found = meter.result()
    assert (found.error, found.max_absdiff, found.median_absdiff, found.quantile_reldiff) == (
        0.0,
        0.0,
        0.0,
        0.0,
    )
    assert found.cosine_min == 1.0


def test_zeros() -> None:
    meter = ErrorMeter()
    meter.add("silent", np.zeros(4, np.float32), np.zeros(4))
    found = meter.result()
    assert (found.error, found.l2_relative, found.cosine_min) == (0.0, 0.0, 1.0)
    meter.add("loud", np.full(4, 0.5, np.float32), np.zeros(4))
    found = meter.result()
    assert (found.error, found.cosine_min, found.worst_clip) == (0.5, 0.0, "loud")
    assert np.isnan(found.max_reldiff)  # no element to be relative to


def test_non_finite_values_are_counted_apart() -> None:
    meter = ErrorMeter()
    got = np.array([1.0, np.nan, 3.5, -np.inf], np.float32)
    meter.add("a", got, np.array([1.0, 2.0, 3.0, 4.0]))
    found = meter.result()
    assert (found.elements, found.non_finite, found.max_absdiff) == (2, 2, 0.5)
    meter.add("b", np.full(3, np.nan, np.float32), np.ones(3))
    assert meter.result().non_finite == 5


def test_nothing_finite() -> None:
    meter = ErrorMeter()
    meter.add("a", np.full(3, np.inf, np.float32), np.ones(3))
    found = meter.result()
    assert np.isnan(found.error)
    assert np.isnan(found.max_absdiff)
    assert found.non_finite == 3


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_where_pytorch_is_lost_nothing_passes_for_it(precision: str) -> None:
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((7, 40))
    zeros, lost = ErrorMeter(), ErrorMeter()
    zeros.add("a", np.zeros_like(expected), expected)
    lost.add("a", expected + 0.6 * np.abs(expected).max(), expected)
    comparison = compared(
        "end_to_end",
        "embedding",
        precision,
        "cnn14_16k",
        artifact=zeros.result(),
        pytorch=lost.result(),
        pytorch_fp32=lost.result(),
        fp32_frontend=True,
    )
    assert comparison.required_error == LARGEST_BOUND
    assert not comparison
