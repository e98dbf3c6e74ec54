"""The frontends again in FP64, written differently: explicit matrices, no FFT, other mel code."""

import librosa
import numpy as np
import scipy.signal
from numpy.typing import NDArray

from fusion_engine.frontend import FrontendSpec

Array = NDArray[np.float64]


def panns(
    x: NDArray[np.float32],
    spec: FrontendSpec,
    *,
    periodic: bool = True,
    pad_mode: str = "reflect",
    htk: bool = False,
) -> Array:
    """Log-mel [T, n_mels]; the keywords plant faults."""
    n = spec.n_fft
    padded = np.pad(x.astype(np.float64), n // 2, mode=pad_mode)
    at = np.arange(0, len(padded) - n + 1, spec.hop_length)[:, None] + np.arange(n)
    window = scipy.signal.get_window("hann", n, fftbins=periodic)
    mel = librosa.filters.mel(
        sr=spec.sample_rate,
        n_fft=n,
        n_mels=64,
        fmin=50,
        fmax={8_000: 4_000, 16_000: 8_000, 32_000: 14_000}[spec.sample_rate],
        htk=htk,
        dtype=np.float64,
    )
    power = _power(padded[at] @ (window[:, None] * _dft(n, n)))
    return 10.0 * np.log10(np.maximum(power @ mel.T, 1e-10))


def vggish(x: NDArray[np.float32]) -> Array:
    """Log-mel [T, 64] of the VGGish release: magnitude, mel triangles in mel, ln(x + 0.01)."""
    frames = _whole_frames(x)
    window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(400) / 400))
    magnitude = np.sqrt(_power(frames @ (window[:, None] * _dft(400, 512))))
    return np.log(magnitude @ triangles_in_mel(64, 125.0, 7_500.0) + 0.01)


def ast(x: NDArray[np.float32], *, mean: float = -4.2677393, std: float = 4.5689974) -> Array:
    """Log-mel [T, 128] as Kaldi computes it, everything up to the spectrum as one matrix."""
    centre = np.eye(400) - np.full((400, 400), 1 / 400)
    emphasis = np.eye(400) - 0.97 * np.eye(400, k=-1)
    emphasis[0, 0] = 1 - 0.97
    window = np.diag(scipy.signal.get_window("hann", 400, fftbins=False))
    operator = (window @ emphasis @ centre).T @ _dft(400, 512)
    power = _power(_whole_frames(x) @ operator)
    log_mel = np.log(np.maximum(power @ triangles_in_mel(128, 20.0, 8_000.0), 1.1920929e-07))
    return (log_mel - mean) / (2 * std)


def triangles_in_mel(n_mels: int, f_min: float, f_max: float) -> Array:
    """Weights [257, n_mels] for 16 kHz and an FFT of 512, weight by weight."""
    low, high = _mel(f_min), _mel(f_max)
    step = (high - low) / (n_mels + 1)
    weights = np.zeros((257, n_mels))
    for k in range(1, 257):
        mel = _mel(k * 16_000 / 512)
        for m in range(n_mels):
            distance = abs(mel - (low + (m + 1) * step)) / step
            weights[k, m] = max(0.0, 1.0 - distance)
    return weights


def _mel(hz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hz / 700.0))


def _whole_frames(x: NDArray[np.float32]) -> Array:
    count = 1 + (len(x) - 400) // 160
    return np.stack([x[160 * t : 160 * t + 400] for t in range(count)]).astype(np.float64)


def _dft(length: int, n_fft: int) -> NDArray[np.complex128]:
    """[length, n_fft // 2 + 1]; the phase is reduced exactly before it is scaled."""
    turns = np.outer(np.arange(length), np.arange(n_fft // 2 + 1)) % n_fft
    return np.asarray(np.exp(-2j * np.pi * turns / n_fft))


def _power(spectrum: NDArray[np.complex128]) -> Array:
    return spectrum.real**2 + spectrum.imag**2
