"""From what the caller gave to checked clips, in order and in bounded memory."""

import numbers
import os
from array import array
from collections import deque
from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..audio import Channel, as_samples, decode_ahead
from ..audio.ahead import DecodeAhead, Decoded
from ..audio.arrays import as_array, batch_rows, check_samples
from ..errors import AudioError, BackendError, FusionEngineError
from .recording import WHOLE, Clip, Item, LongClips, Progress, Recording
from .windows import Windows

# Files that are known ahead of the one that is being read.
_AHEAD = 64
# Broken files bring no samples, and are to be reported.
_MOST_EVENTS = 4_096
EXPECTED = (
    "expected an array of samples [N], a batch [B, N], a path, or a list of arrays [N] and paths"
)
_EXPECTED_ITEM = "expected an array of samples [N] or a path"
_BUFFERS = (bytes, bytearray, memoryview, array)


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


Event = Clip | End | Progress


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


@dataclass(frozen=True)
class Given:
    """The clips of one call.

    Args:
        items: one for each; samples are not yet checked.
        single: the caller gave one clip, not a batch of one.
        held: the caller holds all samples as they are, so that all of them take no more memory.
    """

    items: Sequence[Item]
    single: bool
    held: bool


def read(audio: Any, *, source_rate: int | None, sample_rate: int) -> Given:
    """What the caller gave, as items.

    Args:
        audio: see ``Engine.embed``.
        source_rate: rate of arrays in Hz, ``None`` when they are at the model's rate.
        sample_rate: the model's rate in Hz.

    Raises:
        TypeError: neither arrays nor paths.
        ValueError: ``source_rate`` together with a path.
        AudioError: an array of a wrong shape; bad samples are found when the clip is reached.
    """
    if is_path(audio):
        return Given([_item("clip", audio, source_rate)], True, False)
    held = source_rate in (None, sample_rate)
    # Bytes are a sequence of numbers too.
    if isinstance(audio, Sequence) and not isinstance(audio, _BUFFERS):
        clips = [_clip(clip, f"clip {index}") for index, clip in enumerate(audio)]
        named = zip(clip_names(len(clips)), clips, strict=True)
        items = [_item(name, clip, source_rate) for name, clip in named]
        return Given(items, False, held and not any(map(is_path, audio)))
    samples = as_array(audio, "audio", EXPECTED)
    if samples.ndim != 2:
        return Given([_item("clip", samples, source_rate)], True, held)
    rows = batch_rows(samples)
    named = zip(clip_names(len(rows)), rows, strict=True)
    return Given([_item(name, row, source_rate) for name, row in named], False, held)


def read_clip(audio: Any, *, source_rate: int | None, sample_rate: int) -> Clip:
    """One clip, for the calls that take no batch.

    Raises:
        AudioError: a batch or a list; or as ``read``, of the samples too.
        BackendError: decoding has ended early.
    """
    given = read(audio, source_rate=source_rate, sample_rate=sample_rate)
    if not given.single:
        raise AudioError(f"got {len(given.items)} clips, expected one: samples [N] or a path")
    with closing(clips_of(given.items, sample_rate)) as events:
        event = next(events)
    if isinstance(event, Clip):
        return event
    assert isinstance(event, End)
    assert event.error is not None
    raise event.error


def clips_of(
    items: Iterable[Item],
    sample_rate: int,
    *,
    windows: Windows | None = None,
    channel: Channel = "mix",
    partial: bool = False,
    long: LongClips | None = None,
    check: bool = True,
) -> Generator[Event, None, None]:
    """The clips of every item, then its end; files are decoded ahead, in threads.

    Args:
        long: what becomes of long clips; ``None``: they are held too.
        check: ``False``: samples of arrays that are clips as they are need not be finite; who
            runs them checks that.

    Raises:
        BackendError: a run of a long clip failed, or decoding has ended early.
        TypeError: an item that is neither samples nor a path.
    """
    waiting = deque[Item]()
    items = iter(items)
    files: DecodeAhead | None = None
    with ExitStack() as stack:
        while True:
            while len(waiting) < _AHEAD and (item := next(items, None)) is not None:
                waiting.append(item)
                if is_path(item.audio):
                    if files is None:
                        files = stack.enter_context(
                            decode_ahead(
                                (), sample_rate, channel=channel, partial=partial, ahead=_AHEAD
                            )
                        )
                    files.add(Path(item.audio))
            if not waiting:
                return
            yield from _clips(waiting.popleft(), files, sample_rate, windows, long, check)


def batches(events: Iterable[Event], most: float) -> Iterator[list[Event]]:
    """Events whose clips have together ``most`` samples, or a little more.

    The beginning of a long clip ends a batch, so that what comes before it does not wait for it.
    """
    batch, samples = list[Event](), 0
    for event in events:
        batch.append(event)
        samples += len(event.samples) if isinstance(event, Clip) else 0
        if isinstance(event, Progress) or samples >= most or len(batch) == _MOST_EVENTS:
            yield batch
            batch, samples = [], 0
    if batch:
        yield batch


def is_path(audio: Any) -> bool:
    """Whether ``audio`` names a file."""
    return isinstance(audio, str | os.PathLike)


def _item(name: str, audio: Any, source_rate: int | None) -> Item:
    if source_rate is not None and is_path(audio):
        raise ValueError("sample_rate= is for arrays of samples; a file carries its own rate")
    return Item(key=name, audio=audio, sample_rate=source_rate)


def clip_names(count: int) -> list[str]:
    """What errors call the clips of a call."""
    return ["clip"] if count == 1 else [f"clip {index}" for index in range(count)]


def _clip(item: Any, name: str) -> Any:
    """What is one clip of a list."""
    if isinstance(item, numbers.Number | list | tuple):
        kind = type(item).__name__
        raise TypeError(
            f"{name} is {kind}; {EXPECTED}. A list holds whole clips: samples in a list become one "
            "with np.asarray(samples, np.float32)"
        )
    return item if is_path(item) else as_array(item, name, EXPECTED)


def _clips(
    item: Item,
    files: DecodeAhead | None,
    sample_rate: int,
    windows: Windows | None,
    long: LongClips | None,
    check: bool,
) -> Iterator[Event]:
    source: _Array | _File
    try:
        if is_path(item.audio):
            assert files is not None
            source = _File(_next(files))
        else:
            source = _Array(item, sample_rate, check)
            count = len(source.samples)
            # Nothing to cut: this is what a call with one clip waits for.
            whole = windows is None and tuple(item.parts) == WHOLE
            if whole and (long is None or count <= long.most):
                if not item.skip:
                    yield Clip(name=source.name, key=item.key, end=count, samples=source.samples)
                yield End(key=item.key, samples=count)
                return
            if not check:
                check_samples(source.samples, source.name)
        recording = Recording(item, source, sample_rate, windows, long)
        yield from recording
        yield End(key=item.key, samples=recording.total, partial=source.partial)
    except AudioError as error:
        yield End(key=item.key, error=error)


def _next(files: DecodeAhead) -> Decoded:
    try:
        return next(files)
    except StopIteration:
        raise BackendError(
            "the next file was not read: the process is ending, or no thread could be started "
            "that decodes"
        ) from None


class _Array:
    """An array as a recording of one block."""

    channels: int | None = None
    partial = False
    found: tuple[bool, bool] | None = None

    def __init__(self, item: Item, sample_rate: int, check: bool) -> None:
        self.name = str(item.key)
        samples = item.audio
        if not isinstance(samples, np.ndarray):
            samples = as_array(samples, self.name, _EXPECTED_ITEM)
        self.samples = as_samples(
            samples,
            source_rate=item.sample_rate,
            sample_rate=sample_rate,
            name=self.name,
            check=check,
        )

    def blocks(self) -> Iterator[NDArray[Any]]:
        yield self.samples[:, np.newaxis]


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
    def found(self) -> tuple[bool, bool] | None:
        return self._decoded.decoding.silent, self._decoded.decoding.clipped_scale
