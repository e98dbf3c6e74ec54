"""Audio files to mono samples, in blocks: memory for the result, not for the file."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError
from .arrays import MAX_RATE, MIN_RATE, check_finite, check_rate
from .container import PatchedFile, examine

Channel = Literal["mix", "first", "all"] | int

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")

# Samples of all channels decoded at a time.
_BLOCK = 2**18
# The most samples believed of a header before they are seen: 1 GiB, not touched until needed.
_BELIEVED = 2**28
# libsndfile's length of a stream that does not say (SF_COUNT_MAX).
_UNKNOWN_FRAMES = 2**63 - 1
# One MPEG frame: not every encoder and libmpg123 count the codec's delay in the same way.
_MP3_SLACK = 1_152


def find_audio(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files as they are given; of folders all audio files inside, recursively, sorted by path.

    Inside folders a file counts as audio by its suffix (``AUDIO_SUFFIXES``, in any case); hidden
    files and folders are left out and links to folders are not followed. What does not exist is
    returned like a file, for ``load`` to report.

    Raises:
        AudioError: a folder that cannot be read or holds no audio.
    """
    found: list[Path] = []
    for path in map(Path, inputs):
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(_walk(path))
        if not inside:
            raise AudioError(
                f"{path}: no audio in this folder, expected files named {' '.join(AUDIO_SUFFIXES)}"
            )
        found += inside
    return found


def _walk(folder: Path) -> Iterable[Path]:
    def refuse(error: OSError) -> None:
        raise AudioError(
            f"{error.filename}: {error.strerror}; expected a folder that may be read"
        ) from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


@dataclass(frozen=True, eq=False)
class Recording:
    """A decoded file.

    Args:
        samples: float32 [N] at the rate asked for, or [C, N] where all channels were.
        partial: the file contradicts itself or is damaged, and what is there was taken.
        silent: every sample is zero.
        clipped_scale: a sample lies beyond ±16, which no audio in [-1, 1] does.
    """

    samples: NDArray[np.float32]
    partial: bool = False
    silent: bool = False
    clipped_scale: bool = False


def load(path: str | os.PathLike[str], sample_rate: int) -> Recording:
    """Decode a file to mono samples at ``sample_rate``.

    Everything that libsndfile reads: WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF and others. The
    channels are averaged, and soxr (HQ) resamples. Integer formats are scaled to [-1, 1); float
    files are taken as they are, also beyond [-1, 1].

    Args:
        path: a regular file.
        sample_rate: the rate wanted, in Hz.

    Raises:
        AudioError: a file that is missing, not readable, not audio, damaged, truncated (an MP3
            only where its header says how long it is), empty or not finite.
        TypeError: a ``sample_rate`` that is no integer.
        ValueError: a ``sample_rate`` out of range.
    """
    import soundfile

    sample_rate = check_rate(sample_rate)
    path = Path(path)
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise AudioError(f"{path}: is a folder, expected an audio file; name the files in it")
        # Opening a pipe would wait for its writer.
        if not stat.S_ISREG(info.st_mode):
            raise AudioError(f"{path}: is not a regular file, expected an audio file")
        if info.st_size == 0:
            raise AudioError(f"{path}: is empty (0 bytes), expected audio; copy or record it again")
        # libsndfile gets no name: it would trust the suffix more than the content.
        with PatchedFile(path) as file:
            contents = examine(file, info.st_size)
            if contents.fault:
                raise AudioError(f"{path}: {contents.fault}; copy or record it again")
            file.seek(0)
        with PatchedFile(path, contents.patches) as file:
            source = file if contents.patches else file.fileno()
            with soundfile.SoundFile(source, closefd=False) as sound:
                return Recording(_read(sound, str(path), sample_rate))
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")
        raise AudioError(
            f"{path}: cannot be decoded ({reason}), expected WAV, FLAC, OGG or MP3; if it plays "
            "elsewhere, convert it with `ffmpeg -i IN OUT.wav`"
        ) from error
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}, expected a readable audio file") from error


def _read(sound: Any, name: str, sample_rate: int) -> NDArray[np.float32]:
    """All of an open ``SoundFile``, mixed and resampled block by block."""
    import soxr

    rate, channels, announced = sound.samplerate, sound.channels, sound.frames
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(
            f"{name}: its sample rate is {rate} Hz, expected {MIN_RATE} to {MAX_RATE} Hz"
        )
    if announced == _UNKNOWN_FRAMES:
        raise AudioError(
            f"{name}: its header does not say how long it is; write it again with "
            "`ffmpeg -i IN OUT.flac`"
        )
    resampler = None
    if rate != sample_rate:
        resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
    samples: NDArray[np.float32] = np.empty(
        min(announced * sample_rate // rate + 1, _BELIEVED), np.float32
    )
    end = done = 0
    block = np.empty((max(1, _BLOCK // channels), channels), np.float32)
    while True:
        frames = sound.read(out=block)
        mono = _mix(frames)
        check_finite(mono, name, done)
        done += len(frames)
        last = len(frames) == 0
        out = mono
        if resampler is not None:
            out = resampler.resample_chunk(mono, last=last)
            # Finite samples near the type's limit overflow in the filter.
            check_finite(out, f"{name}, resampled", end)
        if end + len(out) > samples.size:
            samples.resize((end + len(out)) * 3 // 2, refcheck=False)
        samples[end : end + len(out)] = out
        end += len(out)
        if last:
            break
    slack = _MP3_SLACK if sound.format == "MP3" else 0
    if done + slack < announced:
        raise AudioError(
            f"{name}: truncated, {done} of the {announced} samples that its header announces are "
            "there; copy or record it again"
        )
    if end == 0:
        raise AudioError(f"{name}: {done} samples at {rate} Hz, expected a longer clip")
    samples.resize(end, refcheck=False)
    return samples


def _mix(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the channels, [n, C] to [n]; column by column is 6× faster than ``mean``."""
    if frames.shape[1] == 1:
        return frames[:, 0]
    total = frames[:, 0].astype(np.float64)
    for channel in range(1, frames.shape[1]):
        total += frames[:, channel]
    total /= frames.shape[1]
    return total.astype(np.float32)
