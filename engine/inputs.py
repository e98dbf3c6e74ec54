"""What `embed` accepts, turned into a stream of checked clips."""

import numbers
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .. import audio as audio_io
from ..audio.arrays import as_array
from ..errors import AudioError
from .stream import Clip, is_path

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
        items: paths are decoded only when the iterator comes to them.
        held: the caller holds all samples as they are, so that all of them take no more memory.
    """

    count: int
    single: bool
    items: Iterator[Clip]
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
        return Clips(1, True, _decoded([audio], sample_rate), False)
    held = source_rate in (None, sample_rate)
    # Bytes are a sequence of numbers too.
    if isinstance(audio, Sequence) and not isinstance(audio, _BUFFERS):
        items = _from_list(audio, source_rate, sample_rate)
        return Clips(len(audio), False, items, held and not any(map(is_path, audio)))
    samples = as_array(audio, "audio", EXPECTED)
    if samples.ndim == 2:
        rows = audio_io.batch_rows(samples)
        return Clips(len(rows), False, _from_list(rows, source_rate, sample_rate), held)
    return Clips(1, True, _from_list([samples], source_rate, sample_rate), held)


def read_clip(audio: Any, *, source_rate: int | None, sample_rate: int) -> Clip:
    """One clip, for the calls that take no batch.

    Raises:
        AudioError: a batch or a list.
    """
    clips = read_clips(audio, source_rate=source_rate, sample_rate=sample_rate)
    if not clips.single:
        raise AudioError(f"got {clips.count} clips, expected one: samples [N] or a path")
    return next(clips.items)


def _from_list(items: Sequence[Any], source_rate: int | None, sample_rate: int) -> Iterator[Clip]:
    """Arrays are checked now, paths decoded ahead of the consumer."""
    paths = [item for item in items if is_path(item)]
    arrays = {}
    for index, item in enumerate(items):
        if is_path(item):
            _no_rate_for_paths(source_rate)
        else:
            arrays[index] = _clip_array(item, f"clip {index}")
    return _merged(items, arrays, _decoded(paths, sample_rate), source_rate, sample_rate)


def _merged(
    items: Sequence[Any],
    arrays: dict[int, NDArray[Any]],
    files: Iterator[Clip],
    source_rate: int | None,
    sample_rate: int,
) -> Iterator[Clip]:
    for index in range(len(items)):
        if index in arrays:
            name = "clip" if len(items) == 1 else f"clip {index}"
            samples = audio_io.as_samples(
                arrays[index], source_rate=source_rate, sample_rate=sample_rate, name=name
            )
            yield Clip(name=name, samples=samples)
        elif (clip := next(files, None)) is not None:
            yield clip
        else:
            return  # the engine counts


def _decoded(paths: Sequence[str | os.PathLike[str]], sample_rate: int) -> Iterator[Clip]:
    for decoded in audio_io.decode_ahead([Path(p) for p in paths], sample_rate):
        yield Clip(name=str(decoded.path), samples=decoded.recording().samples)


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
