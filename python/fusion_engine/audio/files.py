"""Audio files to samples in memory."""

import os
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError
from .decode import Decoding
from .recording import Channel, Recording

# The most samples believed of a header before they are seen: 1 GiB, not touched until needed.
_BELIEVED = 2**28
# A kind of ``AudioError``.
TOO_LARGE = "too large for the memory"


def load(
    path: str | os.PathLike[str],
    sample_rate: int,
    *,
    channel: Channel = "mix",
    partial: bool = False,
) -> Recording:
    """Decode a whole file to samples at ``sample_rate``.

    libsndfile reads WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF and others, and ffmpeg, where it is
    installed, the rest. soxr (HQ) resamples. Integer formats are scaled to [-1, 1); float files are
    taken as they are, also beyond [-1, 1].

    Args:
        path: a regular file.
        sample_rate: the rate wanted, in Hz.
        channel: the mean of the channels ("mix"), one of them ("first", or a number from 1 on), or
            "all", which makes the samples [C, N].
        partial: of a file that is damaged or contradicts itself, take what is there.

    Raises:
        AudioError: a file that is missing, not readable, not audio, damaged, shorter or longer than
            it states, empty, not finite, or too large for the memory.
        BackendError: no process for decoding can be started.
        TypeError: a ``sample_rate`` or ``channel`` of a wrong type.
        ValueError: a ``sample_rate`` or ``channel`` out of range.
    """
    with Decoding(path, sample_rate, channel=channel, partial=partial) as decoding:
        return collect(decoding, decoding)


def collect(decoding: Decoding, blocks: Iterable[NDArray[np.float32]]) -> Recording:
    """All blocks of a file as one.

    Args:
        decoding: of the file; its flags are read after the last block.
        blocks: [n, width] each.

    Raises:
        AudioError: as while iterating, and too large for the memory.
    """
    end, width = 0, decoding.width
    try:
        believed = min(decoding.expected or 0, _BELIEVED // width) + 1
        samples: NDArray[np.float32] = np.empty((believed, width), np.float32)
        for block in blocks:
            if end + len(block) > len(samples):
                samples.resize(((end + len(block)) * 3 // 2, width), refcheck=False)
            samples[end : end + len(block)] = block
            end += len(block)
        samples.resize((end, width), refcheck=False)
        return Recording(
            samples=np.ascontiguousarray(samples.T) if decoding.channel == "all" else samples[:, 0],
            partial=decoding.partial,
            silent=decoding.silent,
            clipped_scale=decoding.clipped_scale,
        )
    except MemoryError as error:
        held = f"{4 * end * width / 1e9:.1f} GB ({end / decoding.sample_rate:.0f} s)"
        raise AudioError(
            f"{decoding.name}: does not fit into memory, {held} were decoded and it goes on; split "
            "it, or give the program more memory",
            kind=TOO_LARGE,
        ) from error
