"""Errors of an output over many clips, in memory that does not grow with them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTILE = 0.999
# A quantile is read from a histogram over the exponent and the leading 8 bits of the mantissa of
# FP32 numbers, whose bits, where the sign is positive, are in the numbers' own order.
_DROPPED_BITS = 15
_BINS = 1 << (31 - _DROPPED_BITS)


@dataclass(frozen=True, kw_only=True)
class ErrorStatistics:
    """One output against its FP64 reference, over all clips; the names are Polygraphy's.

    Args:
        error: largest absolute difference in a clip as a fraction of the largest absolute value of
            the clip's reference, in the worst clip.
        worst_clip: the clip's name.
        l2_relative: ‖difference‖ / ‖reference‖ of a clip, in its worst one.
        cosine_min: smallest cosine similarity of a clip with its reference.
        cosine_mean: their mean.
        max_absdiff: largest absolute difference.
        mean_absdiff: its mean over all elements.
        median_absdiff: its median, to 0.4 %.
        quantile_absdiff: its 99.9th percentile, to 0.4 %.
        max_reldiff: largest difference as a fraction of the reference's own element; large where
            that is nearly zero. Elements that are zero in the reference are left out.
        mean_reldiff: its mean.
        median_reldiff: its median, to 0.4 %.
        quantile_reldiff: its 99.9th percentile, to 0.4 %.
        max_value: largest absolute value of the reference.
        elements: how many elements were compared.
        non_finite: how many more were NaN or infinite; the figures leave them out.
    """

    error: float
    worst_clip: str
    l2_relative: float
    cosine_min: float
    cosine_mean: float
    max_absdiff: float
    mean_absdiff: float
    median_absdiff: float
    quantile_absdiff: float
    max_reldiff: float
    mean_reldiff: float
    median_reldiff: float
    quantile_reldiff: float
    max_value: float
    elements: int
    non_finite: int


class _Distribution:
    """Maximum, mean and quantiles of non-negative numbers."""

    def __init__(self) -> None:
        self._bins = np.zeros(_BINS, np.int64)
        self._sum = 0.0
        self._max = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        if values.size == 0:
            return
        self._sum += float(values.sum())
        self._max = max(self._max, float(values.max()))
        keys = values.astype(np.float32).view(np.uint32) >> _DROPPED_BITS
        self._bins += np.bincount(keys, minlength=_BINS)

    def summary(self) -> tuple[float, float, float, float]:
        """Maximum, mean, median and 99.9th percentile; NaN where there was no number."""
        counts = np.cumsum(self._bins)
        total = int(counts[-1])
        if total == 0:
            return (float("nan"),) * 4
        median, quantile = (self._quantile(counts, q) for q in (0.5, QUANTILE))
        return self._max, self._sum / total, median, quantile

    def _quantile(self, counts: NDArray[np.int64], q: float) -> float:
        """The smallest number that a share ``q`` of all does not exceed, as its bin's middle."""
        key = int(np.searchsorted(counts, q * counts[-1]))
        edges = np.array([key, key + 1], np.uint32) << np.uint32(_DROPPED_BITS)
        low, high = edges.view(np.float32).astype(float)
        return min(0.5 * (low + high) if key else 0.0, self._max)


class ErrorMeter:
    """Adds up the clips of one output."""

    def __init__(self) -> None:
        self._absolute, self._relative = _Distribution(), _Distribution()
        self._errors: dict[str, float] = {}
        self._l2: list[float] = []
        self._cosines: list[float] = []
        self._max_value = 0.0
        self._elements = self._non_finite = 0

    def add(self, clip: str, got: NDArray[np.floating], expected: NDArray[np.float64]) -> None:
        """Compare an output with its reference, of the same shape, finite."""
        finite = np.isfinite(got)
        bad = got.size - int(np.count_nonzero(finite))
        self._non_finite += bad
        a = np.asarray(got, np.float64).ravel()
        b = expected.ravel()
        if bad:
            a, b = a[finite.ravel()], b[finite.ravel()]
        if a.size == 0:
            return
        difference = np.abs(a - b)
        size = np.abs(b)
        top = float(size.max())
        self._elements += a.size
        self._max_value = max(self._max_value, top)
        # Clips may share a name, as two signals that differ in their seed do.
        error = _ratio(float(difference.max()), top)
        self._errors[clip] = max(error, self._errors.get(clip, 0.0))
        norm_a, norm_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
        self._l2.append(_ratio(float(np.linalg.norm(difference)), norm_b))
        product = norm_a * norm_b
        self._cosines.append(float(a @ b) / product if product else float(norm_a == norm_b))
        self._absolute.add(difference)
        nonzero = size > 0
        self._relative.add(difference[nonzero] / size[nonzero])

    def result(self) -> ErrorStatistics:
        """The statistics so far; NaN where no finite element was compared."""
        nan = float("nan")
        worst = max(self._errors, key=self._errors.__getitem__, default="")
        absolute, relative = self._absolute.summary(), self._relative.summary()
        return ErrorStatistics(
            error=self._errors.get(worst, nan),
            worst_clip=worst,
            l2_relative=max(self._l2, default=nan),
            cosine_min=min(self._cosines, default=nan),
            cosine_mean=sum(self._cosines) / len(self._cosines) if self._cosines else nan,
            **dict(_named("absdiff", absolute)),
            **dict(_named("reldiff", relative)),
            max_value=self._max_value,
            elements=self._elements,
            non_finite=self._non_finite,
        )


def _named(suffix: str, values: tuple[float, ...]) -> Iterator[tuple[str, float]]:
    for name, value in zip(("max", "mean", "median", "quantile"), values, strict=True):
        yield f"{name}_{suffix}", value


def _ratio(difference: float, size: float) -> float:
    """The difference as a fraction of ``size``; against zero it stands for itself."""
    return difference / size if size else difference
