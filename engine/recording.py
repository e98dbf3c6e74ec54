"""One recording, cut into clips as its samples come; of a long clip nothing is held."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..audio.recording import LOUDEST
from ..errors import AudioError
from .long_clip import LongClip
from .windows import Windows

# No parts of a recording.
WHOLE = ((None, None),)


@dataclass(frozen=True, eq=False, kw_only=True)
class Item:
    """What is to be embedded.

    Attributes:
        key: comes back with every result.
        audio: samples [N], or the path of a file.
        sample_rate: of samples, in Hz; ``None``: the model's.
        parts: what to embed of it, (start, end) in seconds of the recording, each a recording of
            its own to the windows; ``None``: its start, its end. In order, whatever their order.
        skip: results that are not wanted again, from the first on.
    """

    key: Any
    audio: Any
    sample_rate: int | None = None
    parts: Sequence[tuple[float | None, float | None]] = WHOLE
    skip: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Clip:
    """A part of a recording, of one channel.

    Attributes:
        name: in messages.
        key: of its item.
        channel: from 1 on, where each has a clip of its own.
        start: first sample, at the model's rate.
        end: one after the last sample, padding included.
        samples: [end - start], checked; of a long clip none.
        long: a long clip, run up to its last runs.
        found: ``silent`` and ``clipped_scale``; ``None``: they follow from the samples.
    """

    name: str
    samples: NDArray[Any]
    long: LongClip | None = None
    key: Any = None
    channel: int | None = None
    start: int = 0
    end: int = 0
    found: tuple[bool, bool] | None = None

    @property
    def silent(self) -> bool:
        """Every sample is zero."""
        return not self.samples.any() if self.found is None else self.found[0]

    @property
    def clipped_scale(self) -> bool:
        """A sample is beyond ±16."""
        return _beyond(self.samples) if self.found is None else self.found[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class Progress:
    """A long clip is under way.

    Attributes:
        key: of its item.
        samples: of the recording, so far.
    """

    key: Any
    samples: int


@dataclass(frozen=True)
class LongClips:
    """What becomes of clips that are too long to be held.

    Args:
        most: samples of the longest that is held.
        begin: a long clip of a name.
    """

    most: int
    begin: Callable[[str], LongClip]


class Source(Protocol):
    """Where samples come from.

    Attributes:
        name: in messages.
        channels: how many have clips of their own; ``None``: there is one, a mixture or a choice.
        found: silent, and beyond ±16: of the whole recording, before it was resampled; ``None``:
            nobody looked.
    """

    name: str

    @property
    def channels(self) -> int | None:  # noqa: D102
        ...

    @property
    def found(self) -> tuple[bool, bool] | None:  # noqa: D102
        ...

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Samples [n, channels], one block after the other."""
        ...


class Recording:
    """The clips of one item, and the progress of long ones; iterate once.

    Attributes:
        total: samples of the recording so far.
    """

    def __init__(
        self,
        item: Item,
        source: Source,
        sample_rate: int,
        windows: Windows | None,
        long: LongClips | None,
    ) -> None:
        self._item, self._source = item, source
        # A file that is one clip was looked at before it was resampled.
        self._whole = windows is None and tuple(item.parts) == WHOLE
        ends = [
            (round((start or 0.0) * sample_rate), None if end is None else round(end * sample_rate))
            for start, end in item.parts
        ]
        ends.sort(key=lambda part: (part[0], math.inf if part[1] is None else part[1]))
        self._parts = deque(
            _Part(source.name, first, stop, sample_rate, windows, long) for first, stop in ends
        )
        self._given = 0
        self.total = 0

    def __iter__(self) -> Iterator[Clip | Progress]:
        for block in self._source.blocks():
            begin, self.total = self.total, self.total + len(block)
            for number, part in enumerate(self._parts):
                if part.first >= self.total:
                    break
                part.take(block, begin)
                if part.is_long:
                    # Before its first run, so that what comes before it need not wait.
                    yield Progress(key=self._item.key, samples=begin)
                    results = self._given + number * block.shape[1]
                    part.run(skip=self._item.skip - results)
            while self._parts:
                yield from self._clips(self._parts[0].whole_windows())
                if not self._parts[0].ends_before(self.total):
                    break
                yield from self._clips(self._parts.popleft().rest(self.total))
        while self._parts:
            yield from self._clips(self._parts[0].whole_windows())
            yield from self._clips(self._parts.popleft().rest(self.total))

    def _clips(self, cuts: "Iterable[_Cut]") -> Iterator[Clip]:
        """A clip of each channel."""
        for cut in cuts:
            for column, (samples, long) in enumerate(cut.channels()):
                self._given += 1
                if self._given <= self._item.skip:
                    continue
                yield Clip(
                    name=self._source.name,
                    key=self._item.key,
                    channel=None if self._source.channels is None else column + 1,
                    start=cut.start,
                    end=cut.start + cut.length,
                    samples=np.ascontiguousarray(samples),
                    long=None if long is None else long.clip,
                    found=self._found(long),
                )

    def _found(self, long: "_LongChannel | None") -> tuple[bool, bool] | None:
        found = self._source.found
        if self._whole and self._source.channels is None and found is not None:
            return found
        return None if long is None else long.found


def _beyond(samples: NDArray[Any]) -> bool:
    return samples.dtype != np.int16 and bool(np.abs(samples).max() > LOUDEST)


class _LongChannel:
    """A channel of a long clip, of which nothing is held but what its next run needs."""

    def __init__(self, clip: LongClip) -> None:
        self.clip = clip
        self.found = (True, False)

    def push(self, samples: NDArray[Any]) -> None:
        self.clip.push(samples)
        silent, loud = self.found
        self.found = (silent and not samples.any(), loud or _beyond(samples))


@dataclass(frozen=True)
class _Cut:
    """What was cut out of a recording.

    Args:
        start: first sample.
        length: samples.
        samples: [length, channels]; of a long clip [0, channels].
        long: its channels, ``None`` for those that are not wanted.
    """

    start: int
    length: int
    samples: NDArray[Any]
    long: Sequence[_LongChannel | None] = ()

    def channels(self) -> Iterator[tuple[NDArray[Any], _LongChannel | None]]:
        return zip_longest(self.samples.T, self.long)


class _Part:
    """The samples ``first`` to ``stop`` of a recording, and what is cut out of them."""

    def __init__(
        self,
        name: str,
        first: int,
        stop: int | None,
        sample_rate: int,
        windows: Windows | None,
        long: LongClips | None,
    ) -> None:
        self._name, self._rate, self._windows = name, sample_rate, windows
        self._long = long if windows is None else None
        self._channels: list[_LongChannel | None] = []
        self.first, self._stop = first, stop
        self._number = 0  # of the next window
        self._held: list[NDArray[Any]] = []
        # Where what is held begins and ends, from `first` on.
        self._begin = self._end = 0

    def take(self, block: NDArray[Any], begin: int) -> None:
        """Keep what belongs here of a block from sample ``begin`` on."""
        stop = begin + len(block) if self._stop is None else min(self._stop, begin + len(block))
        part = block[max(0, self.first - begin) : max(0, stop - begin)]
        if len(part):
            self._held.append(part)
            self._end += len(part)

    @property
    def is_long(self) -> bool:
        """Whether it is not to be held."""
        return self._long is not None and self._end > self._long.most

    def run(self, skip: int) -> None:
        """Run what is held of a long clip, but for its first ``skip`` channels."""
        assert self._long is not None
        for block in self._held:
            if not self._channels:
                self._channels = [
                    None if column < skip else _LongChannel(self._long.begin(self._name))
                    for column in range(block.shape[1])
                ]
            for channel, samples in zip(self._channels, block.T, strict=True):
                if channel is not None:
                    channel.push(samples)
        self._held.clear()

    def ends_before(self, total: int) -> bool:
        """Whether the first ``total`` samples have all of it."""
        return self._stop is not None and self._stop <= total

    def whole_windows(self) -> Iterator[_Cut]:
        """Those that are all there."""
        if self._windows is None:
            return
        while self._windows.start(self._number) + self._windows.length <= self._end:
            yield self._cut(self._windows.start(self._number), self._windows.length)
            self._number += 1
        self._drop(self._windows.start(self._number))

    def rest(self, total: int) -> Iterator[_Cut]:
        """What is left at the end: everything, without windows.

        Raises:
            AudioError: the part has no clip.
        """
        if self._channels:
            none = np.empty((0, len(self._channels)), np.float32)
            yield _Cut(self.first, self._end, none, self._channels)
            return
        if self._windows is None:
            start, length = 0, self._end or None
        else:
            start = self._windows.start(self._number)
            length = self._windows.last(self._end, self._number)
        if length is not None:
            yield self._cut(start, length)
        elif self._end == 0:
            raise AudioError(
                f"{self._name}: has no samples from {self.first / self._rate:g} s on, it is "
                f"{total / self._rate:g} s long",
                kind="shorter than the part of it",
            )
        elif self._windows is not None and self._number == 0:
            raise self._windows.too_short(self._name, self._end)

    def _drop(self, start: int) -> None:
        """Let go of what is before ``start``."""
        while self._held and self._begin < start:
            unused = min(start - self._begin, len(self._held[0]))
            self._held[0] = self._held[0][unused:]
            self._begin += unused
            if not len(self._held[0]):
                del self._held[0]

    def _cut(self, start: int, length: int) -> _Cut:
        """From ``start`` on; zeros after the end."""
        if len(self._held) > 1:
            self._held = [np.concatenate(self._held)]
        samples = self._held[0][start - self._begin :][:length]
        if len(samples) < length:
            samples = np.pad(samples, ((0, length - len(samples)), (0, 0)))
        return _Cut(self.first + start, length, samples)
