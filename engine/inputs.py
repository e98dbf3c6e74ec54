"""What `embed` accepts, turned into items of a stream."""

import numbers
from array import array
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from .. import audio as audio_io
from ..audio.arrays import as_array
from ..errors import AudioError
from .clips import Clip, End, Item, clips_of, is_path

EXPECTED = (
    "expected an array of samples [N], a batch [B, N], a path, or a list of arrays [N] and paths"
)
_BUFFERS = (bytes, bytearray, memoryview, array)


@dataclass(frozen=True)
class Clips:
    """The clips of one call.

    Args:
        count: how many there are.
        single: the caller gave one clip, not a batch of one.
        items: the arrays are checked but for their samples.
        held: the caller holds all samples as they are, so that all of them take no more memory.
    """

    count: int
    single: bool
    items: list[Item]
    held: bool


def read_clips(audio: Any, *, source_rate: int | None, sample_rate: int) -> Clips:
    """Check what the caller gave and say how many clips it is.

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
        _no_rate_for_paths(source_rate)
        return Clips(1, True, [Item(key="clip", audio=audio)], False)
    held = source_rate in (None, sample_rate)
    # Bytes are a sequence of numbers too.
    if isinstance(audio, Sequence) and not isinstance(audio, _BUFFERS):
        items = _items(audio, source_rate)
        return Clips(len(audio), False, items, held and not any(map(is_path, audio)))
    samples = as_array(audio, "audio", EXPECTED)
    if samples.ndim == 2:
        rows = audio_io.batch_rows(samples)
        items = [
            Item(key=_name(index, len(rows)), audio=row, sample_rate=source_rate)
            for index, row in enumerate(rows)
        ]
        return Clips(len(rows), False, items, held)
    return Clips(1, True, [Item(key="clip", audio=samples, sample_rate=source_rate)], held)


def read_clip(audio: Any, *, source_rate: int | None, sample_rate: int) -> Clip:
    """One clip, for the calls that take no batch.

    Raises:
        AudioError: a batch or a list; or as ``read_clips``, of the samples too.
        BackendError: decoding has ended early.
    """
    clips = read_clips(audio, source_rate=source_rate, sample_rate=sample_rate)
    if not clips.single:
        raise AudioError(f"got {clips.count} clips, expected one: samples [N] or a path")
    with closing(clips_of(clips.items, sample_rate)) as events:
        event = next(events)
    if isinstance(event, Clip):
        return event
    assert isinstance(event, End)
    assert event.error is not None
    raise event.error


def _items(items: Sequence[Any], source_rate: int | None) -> list[Item]:
    found = []
    for index, item in enumerate(items):
        key = _name(index, len(items))
        if is_path(item):
            _no_rate_for_paths(source_rate)
            found.append(Item(key=key, audio=item))
        else:
            array = _clip_array(item, f"clip {index}")
            found.append(Item(key=key, audio=array, sample_rate=source_rate))
    return found


def _name(index: int, count: int) -> str:
    return "clip" if count == 1 else f"clip {index}"


def _no_rate_for_paths(source_rate: int | None) -> None:
    if source_rate is not None:
        raise ValueError("sample_rate= is for arrays of samples; a file carries its own rate")


def _clip_array(item: Any, name: str) -> NDArray[Any]:
    """An array that is one item of a list."""
    if isinstance(item, numbers.Number | list | tuple):
        kind = type(item).__name__
        raise TypeError(
            f"{name} is {kind}; {EXPECTED}. A list holds whole clips: samples in a list become one "
            "with np.asarray(samples, np.float32)"
        )
    return as_array(item, name, EXPECTED)
