"""Folders of synthesised recordings, the same ones at every call."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATES = (8_000, 16_000, 22_050, 32_000, 44_100, 48_000)
# Suffix, and libsndfile's name of the samples.
FORMATS = (
    ("wav", "PCM_16"),
    ("wav", "PCM_24"),
    ("wav", "FLOAT"),
    ("flac", "PCM_16"),
    ("ogg", "VORBIS"),
    ("mp3", "MPEG_LAYER_III"),
)
SHORTEST, LONGEST = 1.0, 10.0
# Recordings are made and written in pieces.
PIECE_SECONDS = 30


def short_clips(folder: Path, count: int) -> None:
    """``count`` clips of 1 to 10 s, 8 to 48 kHz, mono and stereo, WAV, FLAC, OGG and MP3.

    Formats take turns in the order of the paths, so any stretch of them is like the whole.
    """
    import soundfile

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        suffix, subtype = FORMATS[number % len(FORMATS)]
        rate = int(rng.choice(RATES))
        samples = round(rng.uniform(SHORTEST, LONGEST) * rate)
        audio = pink_noise(rng, samples, channels=int(rng.integers(1, 3)))
        soundfile.write(folder / f"{number:05d}.{suffix}", audio, rate, subtype)


def long_recordings(folder: Path, count: int, seconds: float) -> None:
    """``count`` FLAC files of 48 kHz, stereo, 16 bits."""
    import soundfile

    folder.mkdir()
    rate = 48_000
    for number in range(count):
        rng = np.random.default_rng(number)
        path = folder / f"{number:05d}.flac"
        with soundfile.SoundFile(path, "w", rate, channels=2, subtype="PCM_16") as file:
            for samples in _pieces(round(seconds * rate), PIECE_SECONDS * rate):
                file.write(pink_noise(rng, samples, channels=2))


def pink_noise(rng: np.random.Generator, samples: int, *, channels: int) -> NDArray[np.float32]:
    """Noise [N, channels] with the spectrum of most recordings, so that FLAC has work to do."""
    length = 1 << (samples - 1).bit_length()  # for a fast FFT
    spectrum = np.fft.rfft(rng.standard_normal((length, channels), np.float32), axis=0)
    spectrum /= np.sqrt(np.arange(1, len(spectrum) + 1, dtype=np.float32))[:, None]
    noise = np.fft.irfft(spectrum, axis=0)[:samples]
    return (0.5 / np.abs(noise).max() * noise).astype(np.float32)


def _pieces(samples: int, most: int) -> Iterator[int]:
    for first in range(0, samples, most):
        yield min(most, samples - first)
