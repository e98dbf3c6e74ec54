"""Timing of two contenders in alternating pairs, after their answers were compared."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from .machine import cpu_seconds_of_others

Sampler = Callable[[], float]

WARMUP_CALLS = 3
# A sample of a short call is the mean over as many calls as fill this, in seconds.
SAMPLE_SECONDS = 0.05

# Thread pools spin for up to 0.1 s after their last task; one contender's must not run in the
# other's time. Idle is a slice in which the whole process used less than a tenth of one core.
_IDLE_SLICE_SECONDS = 0.02
_IDLE_SLICES_AT_MOST = 50


class WrongAnswerError(Exception):
    """Two contenders disagree, so their times mean nothing."""


@dataclass(frozen=True)
class AnswerCheck:
    """How far apart two answers are.

    Args:
        measure: what the error is, with its unit.
        error: what was found.
        tolerance: the largest that passes.
    """

    measure: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """NaN does not pass."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Args:
        name: as the report shows it.
        prepare: warms up, and gives the function that takes one sample, in seconds.
    """

    name: str
    prepare: Callable[[], Sampler]


@dataclass(frozen=True)
class PeerComparison:
    """Ours against one peer.

    Args:
        check: compares the two answers; called before anything is timed.
        figures: what else is worth keeping; called after both were timed.
    """

    ours: Contender
    peer: Contender
    check: Callable[[], AnswerCheck]
    figures: Callable[[], dict[str, Any]] = dict


@dataclass(frozen=True)
class Skipped:
    """A peer that cannot run here.

    Args:
        peer: its name.
        reason: why, and how to mend it.
    """

    peer: str
    reason: str


@dataclass(frozen=True)
class Measurement:
    """A job of ours that takes minutes: done once, with no peer beside it.

    Args:
        name: of who does it.
        measure: does it, and gives ``seconds``, ``peak_gib`` and what else is worth keeping.
    """

    name: str
    measure: Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Records:
    """A job that times its contenders by itself, as a GPU needs it.

    Args:
        produce: gives records: ``contender``, and its figures, ``not_measured`` with the reason, or
            ``failed`` with the error. An ``AnswerCheck`` in it has passed.
    """

    produce: Callable[[], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Case:
    """One job, and everyone who does it.

    Args:
        name: for ``--case``.
        title: for people.
        build: makes the contenders; the folder is scratch space that all cases of a run share.
    """

    name: str
    title: str
    build: Callable[[Path], Sequence[PeerComparison | Measurement | Skipped | Records]]


def calls(name: str, function: Callable[[], Any]) -> Contender:
    """A contender timed on the host's clock by calling ``function``, which returns when done."""

    def prepare() -> Sampler:
        for _ in range(WARMUP_CALLS):
            seconds = _mean_seconds(function, 1)
        repeats = max(1, round(SAMPLE_SECONDS / seconds))
        return lambda: _mean_seconds(function, repeats)

    return Contender(name, prepare)


def _mean_seconds(function: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def run_case(case: Case, folder: Path, pairs: int) -> Iterator[dict[str, Any]]:
    """Check and time every comparison of ``case``; a record each, as the JSON holds it.

    Raises:
        WrongAnswerError: a check failed, or a measurement is out of its bounds.
    """
    for comparison in case.build(folder):
        record: dict[str, Any] = {"case": case.name, "title": case.title}
        if isinstance(comparison, Skipped):
            yield {**record, "peer": comparison.peer, "skipped": comparison.reason}
            continue
        if isinstance(comparison, Records):
            yield from (record | found for found in comparison.produce())
            continue
        if isinstance(comparison, Measurement):
            with CpuOfOthers() as others:
                record["measured"] = comparison.measure()
            yield {**record, "other_cores": others.cores}
            continue
        record["peer"] = comparison.peer.name
        check = comparison.check()
        if not check.passed:
            raise WrongAnswerError(
                f"{case.name} against {comparison.peer.name}: {check.measure} is "
                f"{check.error:.3g}, at most {check.tolerance:.3g} is allowed"
            )
        record["check"] = asdict(check)
        with CpuOfOthers() as others:
            samples = time_pairs(comparison.ours, comparison.peer, pairs)
        record["other_cores"] = others.cores
        yield record | summary(*samples) | comparison.figures()


class CpuOfOthers:
    """Cores that other processes used, on average, while this was entered; ``None``: not known.

    A pool whose threads wait for each other at every step can be slowed tenfold by one process that
    takes one core, and another sort of pool hardly: times from a busy machine mean little.
    """

    cores: float | None = None

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        self._before = cpu_seconds_of_others()
        return self

    def __exit__(self, *_: object) -> None:
        after = cpu_seconds_of_others()
        if self._before is not None and after is not None:
            # The counters tick at 100 Hz, so the difference can come out a little below zero.
            elapsed = time.perf_counter() - self._start
            self.cores = max(0.0, round((after - self._before) / elapsed, 3))


def time_pairs(ours: Contender, peer: Contender, pairs: int) -> tuple[list[float], list[float]]:
    """Samples of both in seconds, taken in turn: ours, peer, ours, peer, …"""
    samplers = ours.prepare(), peer.prepare()
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for sampler, taken in zip(samplers, samples, strict=True):
            wait_until_idle()
            taken.append(sampler())
    return samples


def wait_until_idle() -> None:
    """Sleep until no thread of this process is busy, one second at most."""
    for _ in range(_IDLE_SLICES_AT_MOST):
        before = time.process_time()
        time.sleep(_IDLE_SLICE_SECONDS)
        if time.process_time() - before < 0.1 * _IDLE_SLICE_SECONDS:
            return


def summary(ours: list[float], peer: list[float]) -> dict[str, Any]:
    """Median and quartiles of both in milliseconds, and of the speed-up of each pair.

    The speed-up is the peer's time over ours: above 1, ours is faster.
    """
    speed_ups = [theirs / own for own, theirs in zip(ours, peer, strict=True)]
    return {
        "ours_ms": quartiles([1e3 * seconds for seconds in ours]),
        "peer_ms": quartiles([1e3 * seconds for seconds in peer]),
        "speed_up": quartiles(speed_ups),
    }


def quartiles(values: list[float]) -> dict[str, Any]:
    """Median and quartiles (linear between neighbours), and the values in the order taken."""
    if len(values) == 1:
        low = middle = high = values[0]
    else:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "q1": low, "q3": high, "samples": values}
