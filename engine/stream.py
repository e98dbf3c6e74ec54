"""Recordings, cut into clips and grouped into batches: in order and in bounded memory."""

import os
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..audio import Channel, as_samples, decode_ahead
from ..audio.ahead import DecodeAhead, Decoded
from ..audio.arrays import as_array
from ..audio.recording import LOUDEST
from ..errors import AudioError, FusionEngineError
from .windows import Windows

# Files that are known ahead of the one that is being read.
_AHEAD = 64
# Broken files bring no samples, and are to be reported.
_MOST_EVENTS = 4_096
EXPECTED = "expected an array of samples [N] or a path"


@dataclass(frozen=True, eq=False, kw_only=True)
class Item:
    """What is to be embedded.

    Attributes:
        key: comes back with every result.
        audio: samples [N], or the path of a file.
        start: of the part to embed, in seconds of the recording; ``None``: its start.
        end: of the part; ``None``: its end.
        skip: results that are not wanted again, from the first on.
    """

    key: Any
    audio: Any
    start: float | None = None
    end: float | None = None
    skip: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Clip:
    """A part of a recording, of one channel.

    Attributes:
        name: in messages.
        key: of its item.
        channel: from 1 on, where each has a clip of its own.
        start: first sample, at the model's rate.
        end: behind the last sample, padding included.
        samples: [end - start], checked.
        silent: every sample is zero.
        clipped_scale: a sample is beyond ±16.
    """

    name: str
    samples: NDArray[Any]
    key: Any = None
    channel: int | None = None
    start: int = 0
    end: int = 0
    silent: bool = False
    clipped_scale: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class End:
    """No more comes of an item.

    Attributes:
        key: of the item.
        samples: of the recording, at the model's rate.
        partial: it is damaged or contradicts itself.
        error: what ended it early, so that its clips do not count.
    """

    key: Any
    samples: int = 0
    partial: bool = False
    error: FusionEngineError | None = None


Event = TypeVar("Event", Clip, Clip | End)


class Embedded(NamedTuple):
    """One result of ``Engine.embed_stream``.

    Attributes:
        key: as it was given.
        start: of the clip, in seconds of the recording.
        end: of the clip, padding included; ``nan`` with an error.
        result: float32 [D], or why there is none.
    """

    key: Hashable
    start: float
    end: float
    result: NDArray[np.float32] | FusionEngineError


def clips_of(
    items: Iterable[Item],
    sample_rate: int,
    *,
    windows: Windows | None = None,
    channel: Channel = "mix",
    partial: bool = False,
) -> Iterator[Clip | End]:
    """The clips of every item, then its end; files are decoded ahead, in threads.

    Raises:
        TypeError: an item that is neither samples nor a path.
    """
    waiting = deque[Item]()
    items = iter(items)
    with decode_ahead((), sample_rate, channel=channel, partial=partial, ahead=_AHEAD) as files:
        while True:
            while len(waiting) < _AHEAD and (item := next(items, None)) is not None:
                waiting.append(item)
                if is_path(item.audio):
                    files.add(Path(item.audio))
            if not waiting:
                return
            yield from _clips(waiting.popleft(), files, sample_rate, windows)


def _clips(
    item: Item, files: DecodeAhead, sample_rate: int, windows: Windows | None
) -> Iterator[Clip | End]:
    source: _Source
    try:
        source = _File(next(files)) if is_path(item.audio) else _Array(item, sample_rate)
        cutter = _Cutter(item, source, sample_rate, windows)
        yield from cutter
        yield End(key=item.key, samples=cutter.total, partial=source.partial)
    except AudioError as error:
        yield End(key=item.key, error=error)


class _Array:
    """An array as a recording of one block."""

    channels: int | None = None
    partial = False
    flags: tuple[bool, bool] | None = None

    def __init__(self, item: Item, sample_rate: int) -> None:
        self.name = str(item.key)
        array = as_array(item.audio, self.name, EXPECTED)
        samples = as_samples(array, source_rate=None, sample_rate=sample_rate, name=self.name)
        self._samples = samples[:, np.newaxis]

    def blocks(self) -> Iterator[NDArray[Any]]:
        yield self._samples


class _File:
    """A file that is being decoded."""

    def __init__(self, decoded: Decoded) -> None:
        self.name = str(decoded.path)
        self._decoded = decoded
        # What its channels are is known when it is open.
        self._first = next(decoded, None)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        return iter(self._decoded) if self._first is None else chain([self._first], self._decoded)

    @property
    def channels(self) -> int | None:
        decoding = self._decoded.decoding
        return decoding.width if decoding.channel == "all" else None

    @property
    def partial(self) -> bool:
        return self._decoded.decoding.partial

    @property
    def flags(self) -> tuple[bool, bool] | None:
        """Silent, and beyond ±16: of the whole file, before it was resampled."""
        return self._decoded.decoding.silent, self._decoded.decoding.clipped_scale


_Source = _Array | _File


class _Cutter:
    """Cuts one item; iterate once.

    Attributes:
        total: samples of the recording so far.
    """

    def __init__(
        self, item: Item, source: _Source, sample_rate: int, windows: Windows | None
    ) -> None:
        self._item, self._source, self._windows = item, source, windows
        self._first = 0 if item.start is None else round(item.start * sample_rate)
        self._stop = None if item.end is None else round(item.end * sample_rate)
        self._rate = sample_rate
        self._given = 0
        self._held: list[NDArray[Any]] = []
        # Of the part: where the held samples begin and end.
        self._begin = self._end = 0
        self.total = 0

    def __iter__(self) -> Iterator[Clip]:
        number = 0
        for block in self._source.blocks():
            self._take(block)
            if self._windows is None:
                continue
            while self._windows.start(number) + self._windows.length <= self._end:
                yield from self._clip(self._windows.start(number), self._windows.length)
                number += 1
            self._drop(self._windows.start(number))
        length = self._end
        if self._windows is None:
            left: int | None = length or None
        else:
            left = self._windows.last(length, number)
            number_start = self._windows.start(number)
        if left is not None:
            yield from self._clip(0 if self._windows is None else number_start, left)
        elif number == 0:
            raise self._nothing(length)

    def _nothing(self, length: int) -> AudioError:
        name = self._source.name
        if self._windows is not None and length:
            return self._windows.too_short(name, length)
        return AudioError(
            f"{name}: has no samples from {self._item.start or 0:g} s on, it is "
            f"{self.total / self._rate:g} s long"
        )

    def _take(self, block: NDArray[Any]) -> None:
        """Keep what belongs to the part."""
        begin, self.total = self.total, self.total + len(block)
        stop = self.total if self._stop is None else min(self._stop, self.total)
        part = block[max(0, self._first - begin) : max(0, stop - begin)]
        if len(part):
            self._held.append(part)
            self._end += len(part)

    def _drop(self, start: int) -> None:
        """Let go of whole blocks before ``start``."""
        while self._held and self._begin + len(self._held[0]) <= start:
            self._begin += len(self._held.pop(0))

    def _clip(self, start: int, length: int) -> Iterator[Clip]:
        samples = self._samples(start, length)
        channels = self._source.channels
        for column in range(samples.shape[1]):
            self._given += 1
            if self._given <= self._item.skip:
                continue
            mono = samples[:, column]
            if channels is None and self._windows is None and self._source.flags is not None:
                silent, clipped = self._source.flags
            else:
                silent = not mono.any()
                clipped = mono.dtype != np.int16 and bool(np.abs(mono).max() > LOUDEST)
            yield Clip(
                name=self._source.name,
                key=self._item.key,
                channel=None if channels is None else column + 1,
                start=self._first + start,
                end=self._first + start + length,
                samples=np.ascontiguousarray(mono),
                silent=silent,
                clipped_scale=clipped,
            )

    def _samples(self, start: int, length: int) -> NDArray[Any]:
        """Samples [length, channels] from ``start`` on; zeros behind the end."""
        if len(self._held) > 1:
            self._held = [np.concatenate(self._held)]
        held = self._held[0][start - self._begin :][:length]
        if len(held) < length:
            held = np.pad(held, ((0, length - len(held)), (0, 0)))
        return held


def batches(events: Iterable[Event], most: float) -> Iterator[list[Event]]:
    """Runs of events whose clips have together ``most`` samples, or a little more."""
    batch, samples = list[Event](), 0
    for event in events:
        batch.append(event)
        samples += len(event.samples) if isinstance(event, Clip) else 0
        if samples >= most or len(batch) == _MOST_EVENTS:
            yield batch
            batch, samples = [], 0
    if batch:
        yield batch


def is_path(audio: Any) -> bool:
    """Whether ``audio`` names a file."""
    return isinstance(audio, str | os.PathLike)
