"""Two artifacts on one task: is the second as accurate as the first?"""

import json
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError
from .records import ProbeRecord
from .result import NOT_TESTED

Verdict = Literal["not worse", "worse", "unclear"]
MARGIN = 0.01
CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """B against A. Accuracies and what follows from them are fractions, not percent.

    Attributes:
        task: its name.
        a, b: what made the embeddings.
        accuracy_a, accuracy_b: means over the seeds (and folds).
        std_a, std_b: standard deviations over the seeds.
        low, high: ends of the bootstrap interval of accuracy B - accuracy A.
        confidence: of the interval.
        margin: the loss of accuracy that is allowed.
        agreement: share of the tested clips with the same prediction, mean over the seeds.
        clips: tested.
        seeds: the probes'.
    """

    task: str
    a: str
    b: str
    accuracy_a: float
    accuracy_b: float
    std_a: float
    std_b: float
    low: float
    high: float
    confidence: float
    margin: float
    agreement: float
    clips: int
    seeds: tuple[int, ...]

    @property
    def difference(self) -> float:
        """Accuracy B - accuracy A."""
        return self.accuracy_b - self.accuracy_a

    @property
    def verdict(self) -> Verdict:
        """``not worse``: the whole interval is above -margin; ``worse``: the whole is below."""
        if self.low >= -self.margin:
            return "not worse"
        return "worse" if self.high < -self.margin else "unclear"

    @property
    def passed(self) -> bool:
        """Whether B is shown not to be worse."""
        return self.verdict == "not worse"

    def to_json(self) -> str:
        """JSON, the difference and the verdict included."""
        found = {"difference": self.difference, "verdict": self.verdict}
        return json.dumps(asdict(self) | found, indent=1)


def compare(
    a: ProbeRecord,
    b: ProbeRecord,
    *,
    margin: float = MARGIN,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> TaskComparison:
    """Compare two probes of the same clips, splits and seeds.

    What is resampled is the clip: each has the mean over the seeds of what B got right minus what
    A got right. So the interval tells how much the choice of test clips matters, for probes that
    stay as they are.

    Args:
        a, b: records of the same task.
        margin: the loss of accuracy that is allowed, as a fraction.
        confidence: of the two-sided interval.
        resamples, seed: of the bootstrap.

    Raises:
        DatasetError: other clips, labels, splits or seeds.
        ValueError: a margin or confidence out of range.
    """
    if not 0 <= margin < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"margin {margin} and confidence {confidence}, expected fractions between 0 and 1"
        )
    one, two = a.result, b.result
    for what, x, y in (
        ("tasks", one.task, two.task),
        ("clips, labels or splits", one.examples[:16], two.examples[:16]),
        ("seeds", one.seeds, two.seeds),
    ):
        if x != y:
            raise DatasetError(
                f"{a.system.label} and {b.system.label} were probed on different {what} ({x} and "
                f"{y}), expected the same; probe both with the same options"
            )
    predictions = np.array([one.predictions, two.predictions])
    tested = predictions[0, 0] != NOT_TESTED
    right_a, right_b = one.correct(), two.correct()
    strata = np.zeros(len(tested), np.int64) if a.folds is None else np.array(a.folds)
    low, high = paired_bootstrap(
        (right_b.astype(np.float64) - right_a).mean(axis=0),
        strata[tested],
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    return TaskComparison(
        task=one.task,
        a=a.system.label,
        b=b.system.label,
        accuracy_a=one.accuracy,
        accuracy_b=two.accuracy,
        std_a=one.std,
        std_b=two.std,
        low=low,
        high=high,
        confidence=confidence,
        margin=margin,
        agreement=float((predictions[0] == predictions[1])[:, tested].mean()),
        clips=int(tested.sum()),
        seeds=one.seeds,
    )


def paired_bootstrap(
    differences: NDArray[np.float64],
    strata: NDArray[np.int64],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over strata of the mean paired difference.

    Clips are drawn with replacement within their stratum, which keeps the folds' sizes. The
    percentile interval, not BCa: that one is not defined where no clip differs.

    Args:
        differences: [n], one value for each clip; clips are the unit that is resampled.
        strata: [n], each clip's stratum, of equal weight whatever their sizes.
        confidence: of the two-sided interval, in (0, 1).
        resamples: how many.
        seed: of the resampling.

    Returns:
        Lower and upper end.
    """
    rng = np.random.default_rng(seed)
    numbers = np.unique(strata)
    means = np.zeros(resamples)
    for stratum in numbers:
        values, counts = np.unique(differences[strata == stratum], return_counts=True)
        # A resample is how often it drew each of the few distinct values: the same distribution
        # as drawing clips, without [resamples, n] in memory.
        drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=resamples)
        means += drawn @ values / counts.sum() / len(numbers)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
