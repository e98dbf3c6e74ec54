"""The frontend on the CPU: NumPy in FP64, rounded once to FP32."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .._forking import watch_forks
from .frontend_spec import FrontendSpec
from .mel import filter_bank
from .window import analysis_window

# FFT points of the frames computed at once: 1 MB a buffer, which stays in the L2 cache, and enough
# work in each NumPy call for two threads not to wait for the interpreter's lock.
_BLOCK_POINTS = 131_072

# Mel bins multiplied at once. Neighbours share their FFT bins, so most zeros are skipped, and the
# products stay too small for a BLAS to wake its threads, which would spin beside the caller's.
_BAND_MELS = 8

# Lengths of clips whose frame counts are kept.
_KNOWN_LENGTHS = 4_096


class Frontend:
    """Turns clips into log-mel; immutable, and safe to call from many threads.

    A clip gives the same bits alone, in a batch and in any thread: the shapes that are computed at
    once, and with them the order of every sum, depend on the clip's own length only.

    Args:
        spec: what to compute.
        threads: clips of one batch that are computed at once.
    """

    def __init__(self, spec: FrontendSpec, *, threads: int = 1) -> None:
        self.spec = spec
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self.after_fork()
        watch_forks(self)
        self._window = analysis_window(spec)
        self._bands = _bands(filter_bank(spec))
        self._block = max(1, _BLOCK_POINTS // spec.n_fft)

    def after_fork(self) -> None:
        """A pool of threads of this process's own."""
        if self._threads > 1:
            self._pool = ThreadPoolExecutor(self._threads, "frontend")

    def __call__(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """Log-mel [T, n_mels] of one clip.

        Args:
            samples: [N], finite; float32 or float64 in [-1, 1], or int16 PCM (taken as x / 32768).

        Raises:
            TypeError: samples of another type.
            ValueError: not 1-D, empty, or too short for one frame or for the reflection.
        """
        samples = self._checked(samples)
        log_mel = np.empty((self.spec.frames(len(samples)), self.spec.n_mels), np.float32)
        self._fill(log_mel, samples)
        return log_mel

    def batch(
        self, clips: Sequence[NDArray[Any]], *, frames: int | None = None
    ) -> NDArray[np.float32]:
        """Log-mel [B, 1, T, n_mels] of clips.

        Args:
            clips: their samples.
            frames: T, the frames after a clip's own being zeros; ``None``: all have as many.

        Raises:
            TypeError: as for one clip.
            ValueError: as for one clip; no clips; clips of different or of too many frames.
        """
        checked = [self._checked(clip) for clip in clips]
        counts = [_frames(self.spec, len(clip)) for clip in checked]
        if frames is None and len(set(counts)) == 1:
            frames = counts[0]
        if frames is None or not counts or max(counts) > frames:
            raise ValueError(
                f"a batch is one or more clips of one frame count, got {len(checked)} clips of "
                f"{sorted(set(counts))} frames: group them by FrontendSpec.frames, or give frames"
            )
        log_mel = np.zeros((len(checked), 1, frames, self.spec.n_mels), np.float32)
        rows = [row[:count] for row, count in zip(log_mel[:, 0], counts, strict=True)]
        run = map if self._pool is None or len(checked) == 1 else self._pool.map
        for _ in run(self._fill, rows, checked):
            pass  # raises what a thread raised
        return log_mel

    def _checked(self, samples: NDArray[Any]) -> NDArray[Any]:
        samples = np.asarray(samples)
        if samples.dtype not in (np.float32, np.float64, np.int16):
            raise TypeError(f"samples must be float32, float64 or int16, got {samples.dtype}")
        if samples.ndim != 1:
            raise ValueError(f"a clip has shape [N], got {list(samples.shape)}")
        spec = self.spec
        if spec.padding == "reflect":
            least, why = spec.n_fft // 2 + 1, f"to reflect {spec.n_fft // 2} at its ends"
        else:
            least, why = spec.win_length, "for one frame"
        if len(samples) < least:
            raise ValueError(
                f"the clip has {len(samples)} samples, the {spec.preset} frontend needs at least "
                f"{least} {why}: pad it with zeros"
            )
        return samples

    def _fill(self, log_mel: NDArray[np.float32], samples: NDArray[Any]) -> None:
        """Compute into ``log_mel`` [T, n_mels], block by block."""
        buffers = _Buffers(min(self._block, len(log_mel)), self.spec)
        for first in range(0, len(log_mel), self._block):
            block = log_mel[first : first + self._block]
            block[:] = self._log(self._mel(self._frames(samples, first, len(block)), buffers))

    def _frames(self, samples: NDArray[Any], first: int, count: int) -> NDArray[np.float64]:
        """Frames [count, win_length] from frame ``first`` on, as a view of overlapping rows."""
        spec = self.spec
        start = first * spec.hop_length - (spec.n_fft // 2 if spec.padding == "reflect" else 0)
        stop = start + (count - 1) * spec.hop_length + spec.win_length
        # The first and the last sample are mirrors and are not repeated; inside, both are empty.
        before = samples[1 : 1 + max(0, -start)][::-1]
        after = samples[::-1][1 : 1 + max(0, stop - len(samples))]
        signal = np.concatenate([before, samples[max(0, start) : stop], after], dtype=np.float64)
        if samples.dtype == np.int16:
            signal /= 32_768.0
        return sliding_window_view(signal, spec.win_length)[:: spec.hop_length]

    def _mel(self, frames: NDArray[np.float64], buffers: "_Buffers") -> NDArray[np.float64]:
        """Mel spectrum [count, n_mels] of the frames."""
        spec = self.spec
        if spec.remove_dc:
            frames = frames - frames.mean(axis=1, keepdims=True)
        if spec.preemphasis:
            before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
            frames = frames - spec.preemphasis * before
        count = len(frames)
        windowed = np.multiply(frames, self._window, out=buffers.windowed[:count])
        spectrum = np.fft.rfft(windowed, spec.n_fft, out=buffers.spectrum[:count])
        power = np.square(spectrum.real, out=buffers.power[:count])
        power += np.square(spectrum.imag, out=buffers.squares[:count])
        if spec.spectrum == "magnitude":
            np.sqrt(power, out=power)
        mel = buffers.mel[:count]
        for bins, mels, weights in self._bands:
            np.matmul(power[:, bins], weights, out=mel[:, mels])
        return mel

    def _log(self, mel: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logarithm and normalisation, in place."""
        spec = self.spec
        if spec.log == "ln_add":
            mel += spec.log_offset
        else:
            np.maximum(mel, spec.log_offset, out=mel)
        if spec.log == "db":
            np.log10(mel, out=mel)
            mel *= 10.0
        else:
            np.log(mel, out=mel)
        mel -= spec.mean
        if spec.std is not None:
            mel /= 2.0 * spec.std
        return mel


@lru_cache(_KNOWN_LENGTHS)
def _frames(spec: FrontendSpec, samples: int) -> int:
    return spec.frames(samples)


class _Buffers:
    """Memory of one block, used again for every block of a clip: fresh pages cost as much time."""

    def __init__(self, frames: int, spec: FrontendSpec) -> None:
        bins = spec.n_fft // 2 + 1
        self.windowed = np.empty((frames, spec.win_length))
        self.spectrum = np.empty((frames, bins), np.complex128)
        self.power = np.empty((frames, bins))
        self.squares = np.empty((frames, bins))
        self.mel = np.empty((frames, spec.n_mels))


def _bands(filters: NDArray[np.float64]) -> list[tuple[slice, slice, NDArray[np.float64]]]:
    """The bank as (FFT bins, mel bins, weights), a few mel bins each, without the zeros around."""
    bands = []
    for first in range(0, filters.shape[1], _BAND_MELS):
        mels = slice(first, min(first + _BAND_MELS, filters.shape[1]))
        used = np.flatnonzero(filters[:, mels].any(axis=1))
        bins = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0)
        bands.append((bins, mels, np.ascontiguousarray(filters[bins, mels])))
    return bands
