"""The paired comparison of two artifacts, against SciPy's bootstrap."""

import json

import numpy as np
import pytest
from scipy import stats

from fusion_engine.errors import DatasetError
from fusion_engine.probe.compare import compare, paired_bootstrap

from .builders import record, system

# Both intervals are quantiles of 10 000 resamples: their own standard error is under 3 % of the
# interval's width (a normal's 2.5 % quantile: sqrt(0.025 · 0.975 / 10 000) / 0.058 = 0.027 σ).
WIDTH_TOLERANCE = 0.03


def paired(rng, clips, seeds, better):
    """Mean over seeds of correct(B) - correct(A) for each clip."""
    a = rng.random((seeds, clips)) < 0.7
    b = np.where(rng.random((seeds, clips)) < 0.9, a, rng.random((seeds, clips)) < better)
    return (b.astype(float) - a).mean(axis=0)


@pytest.mark.parametrize(("clips", "seeds"), [(60, 1), (400, 3)])
def test_interval_is_scipys(clips, seeds):
    difference = paired(np.random.default_rng(clips), clips, seeds, 0.8)
    low, high = paired_bootstrap(difference, np.zeros(clips, np.int64))
    theirs = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=10_000,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = theirs.high - theirs.low
    # With one seed the values are -1, 0, 1, and the means are steps of 1 / clips apart.
    tolerance = WIDTH_TOLERANCE * width + 1 / (clips * seeds)
    assert low == pytest.approx(theirs.low, abs=tolerance)
    assert high == pytest.approx(theirs.high, abs=tolerance)


def test_folds_weigh_the_same_and_keep_their_sizes():
    """Against SciPy's resampling of each fold, combined as the mean over folds."""
    rng = np.random.default_rng(5)
    sizes = (30, 120, 300)
    folds = np.repeat(np.arange(3), sizes)
    difference = np.concatenate(
        [paired(rng, n, 3, p) for n, p in zip(sizes, (0.2, 0.7, 1.0), strict=True)]
    )
    low, high = paired_bootstrap(difference, folds)
    theirs = [
        stats.bootstrap(
            (difference[folds == fold],),
            np.mean,
            n_resamples=10_000,
            method="percentile",
            rng=np.random.default_rng(fold),
        ).bootstrap_distribution
        for fold in range(3)
    ]
    expected = np.quantile(np.mean(theirs, axis=0), [0.025, 0.975])
    tolerance = WIDTH_TOLERANCE * (expected[1] - expected[0])
    assert [low, high] == pytest.approx(expected, abs=tolerance)
    pooled = paired_bootstrap(difference, np.zeros(len(folds), np.int64))
    assert pooled[0] - low > 5 * tolerance


def test_no_difference_is_an_empty_interval():
    assert paired_bootstrap(np.zeros(50), np.zeros(50, np.int64)) == (0.0, 0.0)


def test_the_seed_and_the_confidence():
    # Continuous, so that quantiles of different resamples do not fall on the same step.
    difference = np.random.default_rng(0).normal(0.1, 1.0, 200)
    strata = np.zeros(200, np.int64)
    assert paired_bootstrap(difference, strata) == paired_bootstrap(difference, strata)
    assert paired_bootstrap(difference, strata) != paired_bootstrap(difference, strata, seed=1)
    narrow = paired_bootstrap(difference, strata, confidence=0.5)
    wide = paired_bootstrap(difference, strata, confidence=0.99)
    assert wide[0] < narrow[0] < difference.mean() < narrow[1] < wide[1]


def fp16(accuracies, **changes):
    return record(accuracies, of=system(precision="fp16"), **changes)


def test_the_same_predictions():
    found = compare(record([0.7, 0.8, 0.75]), fp16([0.7, 0.8, 0.75]))
    assert (found.a, found.b) == ("cnn14-fusion", "cnn14-fusion (fp16)")
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert (found.agreement, found.clips, found.seeds) == (1.0, 200, (0, 1, 2))
    assert found.accuracy_a == found.accuracy_b == pytest.approx(0.75)
    assert found.std_b == pytest.approx(0.05)
    assert (found.verdict, found.passed) == ("not worse", True)


@pytest.mark.parametrize("folds", [None, (40, 160, 100)])
def test_difference_and_agreement(folds):
    """By the definitions, from the predictions."""
    a, b = record([0.9, 0.8], folds=folds, seed=1), fp16([0.7, 0.75], folds=folds, seed=1)
    found = compare(a, b)
    assert found.difference == pytest.approx(b.result.accuracy - a.result.accuracy)
    assert found.low < found.difference < found.high
    one, two = (np.array(r.result.predictions) for r in (a, b))
    expected = [np.mean((x == y)[x >= 0]) for x, y in zip(one, two, strict=True)]
    assert found.agreement == pytest.approx(np.mean(expected))
    if folds:
        # The mean over folds of unequal sizes, as the accuracy is.
        right = (two == np.array(b.result.targets)).mean(axis=0) - (
            one == np.array(a.result.targets)
        ).mean(axis=0)
        numbers = np.array(a.folds)
        low, high = paired_bootstrap(right, numbers)
        assert (found.low, found.high) == (low, high)
        means = [right[numbers == n].mean() for n in (1, 2, 3)]
        assert found.difference == pytest.approx(np.mean(means))


@pytest.mark.parametrize(
    ("accuracies", "clips", "verdict"),
    [
        ([0.6, 0.6, 0.6], 1000, "worse"),
        ([0.8, 0.8, 0.8], 20, "unclear"),
        ([0.9, 0.9, 0.9], 1000, "not worse"),
    ],
)
def test_verdicts(accuracies, clips, verdict):
    found = compare(record([0.8, 0.8, 0.8], clips=clips), fp16(accuracies, clips=clips, seed=7))
    assert (found.verdict, found.passed) == (verdict, verdict == "not worse")


def test_the_margin_decides():
    a, b = record([0.80] * 3, clips=2000), fp16([0.79] * 3, clips=2000)
    assert compare(a, b, margin=0.05).passed
    assert not compare(a, b, margin=0).passed


def test_the_json():
    found = compare(record([0.8]), fp16([0.7]))
    data = json.loads(found.to_json())
    assert data["difference"] == found.difference
    assert data["verdict"] == found.verdict
    assert data["low"] == found.low


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"task": "esc50"}, "tasks"),
        ({"examples": "2" * 64}, "clips, labels or splits"),
        ({"seeds": (5,)}, "seeds"),
    ],
)
def test_what_cannot_be_compared(changes, word):
    with pytest.raises(DatasetError, match=f"different {word} .*probe both with the same"):
        compare(record([0.8]), record([0.8], **changes))


@pytest.mark.parametrize("options", [{"margin": -0.1}, {"margin": 1.0}, {"confidence": 95}])
def test_fractions_not_percent(options):
    with pytest.raises(ValueError, match="expected fractions"):
        compare(record([0.8]), record([0.8]), **options)
