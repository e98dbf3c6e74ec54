"""What an engine has done so far, counted from many threads."""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .._forking import watch_forks


@dataclass(frozen=True)
class EngineStats:
    """What an engine has done so far.

    Args:
        clips: clips answered.
        audio_seconds: their length.
        runs: runs of the network.
        frontend_seconds: time spent in the frontend, summed over threads.
        backbone_seconds: in the network.
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
    """Adds up ``EngineStats``.

    A call leaves what it took in ``amounts``, by field, which takes no lock; they are added up when
    somebody asks, and by ``settle`` before they are many.
    """

    MOST = 4_096

    def __init__(self) -> None:
        self.amounts = deque[Mapping[str, float]]()
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
            self._add_up()
            return EngineStats(**self._sums)

    def settle(self) -> None:
        """Add up what calls left."""
        with self._lock:
            self._add_up()

    def _add_up(self) -> None:
        while self.amounts:
            for name, amount in self.amounts.popleft().items():
                self._sums[name] += amount
