"""What an engine has done so far, counted from many threads."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from .._forking import watch_forks


@dataclass(frozen=True)
class EngineStats:
    """What an engine has done so far.

    Args:
        clips: clips answered.
        audio_seconds: their length.
        runs: runs of the backbone.
        frontend_seconds: time spent in the frontend, summed over threads.
        backbone_seconds: in the backbone.
        fusion_seconds: in the layer fusion.
        gpu_seconds: on a GPU, where the stages overlap: in all three, the copies included.
        uncaptured_runs: runs on a GPU that were not launched as one recorded CUDA graph: the first
            of each shape, long clips, and whatever the library cannot record.
        graphs: CUDA graphs recorded and held now.
        slots: input shapes that buffers are held for now.
        device_bytes: device memory of these buffers; weights are not counted.
    """

    clips: int = 0
    audio_seconds: float = 0.0
    runs: int = 0
    frontend_seconds: float = 0.0
    backbone_seconds: float = 0.0
    fusion_seconds: float = 0.0
    gpu_seconds: float = 0.0
    uncaptured_runs: int = 0
    graphs: int = 0
    slots: int = 0
    device_bytes: int = 0


class Meter:
    """Adds up ``EngineStats``."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = asdict(EngineStats())
        self.after_fork()
        watch_forks(self)

    def after_fork(self) -> None:
        """A lock that no thread of another process holds."""
        self._lock = threading.Lock()

    @property
    def stats(self) -> EngineStats:
        """What was added up so far."""
        with self._lock:
            return EngineStats(**self._sums)

    def add(self, **amounts: float) -> None:
        """Add to the fields named."""
        with self._lock:
            for name, amount in amounts.items():
                self._sums[name] += amount

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to the field ``stage``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(**{stage: time.perf_counter() - start})
