"""A clip too long for one run: samples in, block by block, in the memory of a run."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from ..spec import Head
from .cut import Run
from .runner import Runner, Samples
from .stats import Meter


class LongClip:
    """One clip; its embedding does not depend on how its samples are cut into blocks.

    Args:
        runner: runs the network.
        meter: told of the audio as it comes.
        name: of the clip, in messages.
    """

    def __init__(self, runner: Runner, meter: Meter, name: str) -> None:
        self._rate, self._meter = runner.spec.frontend.sample_rate, meter
        self._runs = runner.cutting.runs(name)
        self._state = runner.clip_state()
        self._held = deque[Samples]()
        self._first = self._count = 0  # of the samples that are held, and of the clip so far

    def push(self, samples: Samples) -> None:
        """Take the next samples [n], all of one type, and run what is complete.

        Raises:
            AudioError: the artifact does not take a clip of that length.
            BackendError: the library failed.
        """
        self._held.append(samples)
        self._count += len(samples)
        self._run(ended=False)
        self._meter.amounts.append({"audio_seconds": len(samples) / self._rate})

    def finish(self, head: Head) -> tuple[NDArray[np.float32], np.uint32]:
        """The embedding [D] and its flags; see ``runner.Flags``.

        Raises:
            AudioError, BackendError: as ``push``.
        """
        self._run(ended=True)
        self._meter.amounts.append({"clips": 1})
        return self._state.finish(head)

    def _run(self, *, ended: bool) -> None:
        for run in self._runs.of(self._count, ended=ended):
            self._state.add(self._part(run), run.pieces)
        while self._held and self._first + len(self._held[0]) <= self._runs.first:
            self._first += len(self._held.popleft())

    def _part(self, run: Run) -> Samples:
        first, parts = self._first, list[Samples]()
        for block in self._held:
            parts.append(block[max(0, run.first - first) : max(0, run.stop - first)])
            first += len(block)
        parts = [part for part in parts if len(part)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
