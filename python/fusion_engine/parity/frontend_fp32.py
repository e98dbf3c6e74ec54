"""Log-mel computed in FP32, as a GPU does: what part of an engine's error its frontend explains."""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..frontend import FrontendSpec
from ..frontend.mel import filter_bank


def log_mel_fp32(samples: NDArray[Any], spec: FrontendSpec) -> NDArray[np.float32]:
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
    # NumPy transforms FP32 in FP32 from version 2 on.
    spectrum = np.abs(np.fft.rfft(frames * window.astype(np.float32), spec.n_fft))
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
