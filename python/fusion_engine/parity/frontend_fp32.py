"""Log-mel computed in FP32: what part of an engine's error its frontend explains."""

from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..frontend import FrontendSpec
from ..frontend.mel import filter_bank

# How an FP32 spectrum is computed: by an FFT, as on a GPU, or as a product with the matrix of the
# DFT, as in a waveform artifact and in torchlibrosa.
Transform = Literal["fft", "matrix"]


def log_mel_fp32(
    samples: NDArray[Any], spec: FrontendSpec, transform: Transform = "fft"
) -> NDArray[np.float32]:
    """Log-mel [T, n_mels] of a clip [N] long enough for one frame, every operation in FP32.

    Where a bin is far below its frame's peak, this is off from FP64 by up to 0.3 dB.
    """
    signal = samples.astype(np.float32)
    if spec.padding == "reflect":
        signal = np.pad(signal, spec.n_fft // 2, mode="reflect")
    frames: NDArray[Any] = sliding_window_view(signal, spec.win_length)[:: spec.hop_length]
    if spec.remove_dc:
        frames = frames - frames.mean(axis=1, keepdims=True)
    if spec.preemphasis:
        before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        frames = frames - np.float32(spec.preemphasis) * before
    period = spec.win_length - (spec.window == "hann_symmetric")
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi / period * np.arange(spec.win_length))
    windowed = frames * window.astype(np.float32)
    if transform == "fft":
        # NumPy transforms FP32 in FP32 from version 2 on.
        spectrum = np.abs(np.fft.rfft(windowed, spec.n_fft))
    else:
        turns = np.outer(np.arange(spec.win_length), np.arange(spec.n_fft // 2 + 1)) / spec.n_fft
        real, imaginary = (
            windowed @ part(2.0 * np.pi * turns).astype(np.float32) for part in (np.cos, np.sin)
        )
        spectrum = np.hypot(real, imaginary)
    if spec.spectrum == "power":
        spectrum = np.square(spectrum)
    mel = spectrum @ filter_bank(spec).astype(np.float32)
    offset = np.float32(spec.log_offset)
    floored = mel + offset if spec.log == "ln_add" else np.maximum(mel, offset)
    log_mel: NDArray[np.float32] = np.log(floored)
    if spec.log == "db":
        log_mel = np.float32(10) * np.log10(floored)
    log_mel -= np.float32(spec.mean)
    log_mel /= np.float32(2 * (spec.std or 0.5))
    return log_mel
