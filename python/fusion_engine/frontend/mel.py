"""Mel filter banks in FP64."""

import numpy as np
from numpy.typing import NDArray

from .frontend_spec import FrontendSpec

# Slaney's scale (Auditory Toolbox): linear up to 1 kHz, then 27 steps per factor of 6.4.
_SLANEY_HZ_PER_MEL = 200.0 / 3.0
_SLANEY_KNEE_HZ = 1_000.0
_SLANEY_KNEE_MEL = _SLANEY_KNEE_HZ / _SLANEY_HZ_PER_MEL
_SLANEY_LOG_STEP = np.log(6.4) / 27.0


def filter_bank(spec: FrontendSpec) -> NDArray[np.float64]:
    """Weights [n_fft // 2 + 1, n_mels] that turn a spectrum into mel bins.

    ``slaney`` is ``librosa.filters.mel``: triangles linear in Hz. ``htk`` (VGGish) and ``kaldi``
    (AST) space the same scale differently named, 1127·ln(1 + f/700), and their triangles are linear
    in mel; a bin at 0 Hz has no weight.
    """
    bins = np.linspace(0.0, spec.sample_rate / 2, spec.n_fft // 2 + 1)
    if spec.mel_scale == "slaney":
        low, high = _slaney_mel(np.array([spec.f_min, spec.f_max]))
        edges = _slaney_hz(np.linspace(low, high, spec.n_mels + 2))
    else:
        low, high = _htk_mel(np.array([spec.f_min, spec.f_max]))
        edges = np.linspace(low, high, spec.n_mels + 2)
        bins = _htk_mel(bins)

    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - left) / (centre - left)
    falling = (right - bins[:, None]) / (right - centre)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    if spec.mel_norm == "slaney":  # unit area
        weights *= 2.0 / (right - left)
    return weights


def _slaney_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _SLANEY_KNEE_MEL + np.log(np.maximum(hz, _SLANEY_KNEE_HZ) / _SLANEY_KNEE_HZ) / (
        _SLANEY_LOG_STEP
    )
    return np.where(hz < _SLANEY_KNEE_HZ, hz / _SLANEY_HZ_PER_MEL, above)


def _slaney_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _SLANEY_KNEE_HZ * np.exp(_SLANEY_LOG_STEP * (mel - _SLANEY_KNEE_MEL))
    return np.where(mel < _SLANEY_KNEE_MEL, mel * _SLANEY_HZ_PER_MEL, above)


def _htk_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1127.0 * np.log1p(hz / 700.0)
