"""What both tests of the frontend kernel share: the FP64 mel spectrum and the bounds of FP32.

A bin of an FP32 FFT errs relative to the frame's largest bin, so a mel bin far below it has no
digit left: the bound is on the mel spectrum, before the logarithm.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion_engine.frontend import FrontendSpec
from fusion_engine.frontend.mel import filter_bank
from fusion_engine.frontend.window import analysis_window

from .. import signals

EPS = float(np.finfo(np.float32).eps)

# |P - P64| / (eps n_fft (largest weight of the bank) (largest bin)), beyond the logarithm's own
# rounding. Measured on the host: 2.3e-4 for powers, 2.4e-3 for magnitudes.
MEL_BOUND = {"power": 1e-3, "magnitude": 1e-2}
# dB, where P is less than 50 dB below what the frame's largest bin could give. Measured: 5e-4 dB.
NEAR_DB = 1e-3
# dB, of the FP32 logarithm and normalisation: 2.5 units in the last place at -100 dB.
LOG_DB = 2e-5


def quiet(seconds: float, rate: int, seed: int = 0) -> NDArray[np.float32]:
    """Just above the floor of 10·log10."""
    return np.float32(3e-6) * signals.chirp(seconds, rate, seed)


def offset(seconds: float, rate: int, seed: int = 0) -> NDArray[np.float32]:
    """Faint noise on a large constant."""
    return np.float32(0.75) + np.float32(1e-4) * signals.noise(seconds, rate, seed)


SIGNALS: list[Callable[..., NDArray[np.float32]]] = [*signals.SIGNALS.values(), quiet, offset]


@dataclass
class Reference:
    """A clip in FP64."""

    log_mel: NDArray[np.float64]  # [T, n_mels]
    mel: NDArray[np.float64]  # [T, n_mels], before the logarithm
    peak: NDArray[np.float64]  # [T, 1], the frame's largest bin


def reference(
    samples: NDArray[np.float32] | NDArray[np.int16],
    spec: FrontendSpec,
    *,
    pad_mode: str = "reflect",
    window: NDArray[np.float64] | None = None,
) -> Reference:
    """By NumPy's FFT of all frames at once; another ``pad_mode`` plants a fault."""
    x = samples.astype(np.float64) / (32_768.0 if samples.dtype == np.int16 else 1.0)
    half = spec.n_fft // 2
    padded = np.pad(x, half, mode=pad_mode) if spec.padding == "reflect" else x
    starts = spec.hop_length * np.arange(spec.frames(len(x)))
    frames = padded[starts[:, None] + np.arange(spec.win_length)]
    if spec.remove_dc:
        frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = frames - spec.preemphasis * before
    frames = frames * (analysis_window(spec) if window is None else window)
    bins = np.abs(np.fft.rfft(frames, spec.n_fft))
    if spec.spectrum == "power":
        bins = bins**2
    mel = bins @ filter_bank(spec)
    offset = spec.log_offset
    argument = mel + offset if spec.log == "ln_add" else np.maximum(mel, offset)
    log_mel = 10.0 * np.log10(argument) if spec.log == "db" else np.log(argument)
    log_mel = (log_mel - spec.mean) / (1.0 if spec.std is None else 2.0 * spec.std)
    return Reference(log_mel, mel, bins.max(axis=1, keepdims=True))


def assert_within_bounds(got: NDArray[np.float32], expected: Reference, spec: FrontendSpec) -> None:
    """Both bounds, everywhere; prints what was reached."""
    assert got.dtype == np.float32
    assert got.shape == expected.mel.shape
    divisor = 1.0 if spec.std is None else 2.0 * spec.std
    db_per_unit = divisor * (1.0 if spec.log == "db" else 10.0 / np.log(10.0))
    # As dB of the argument of the logarithm, which is what an FP32 result can say.
    logged = got * divisor + spec.mean
    argument = 10.0 ** (logged / 10.0) if spec.log == "db" else np.exp(logged)
    if spec.log == "ln_add":
        exact = expected.mel + spec.log_offset
    else:
        exact = np.maximum(expected.mel, spec.log_offset)
    rounding = LOG_DB * np.log(10.0) / 10.0 * exact
    excess = np.maximum(np.abs(argument - exact) - rounding, 0.0)
    most = filter_bank(spec).max() * np.maximum(expected.peak, np.finfo(np.float64).tiny)
    reached = float((excess / (EPS * spec.n_fft * most)).max())

    near = expected.mel >= most * (1e-5 if spec.spectrum == "power" else 10.0**-2.5)
    error_db = db_per_unit * np.abs(got - expected.log_mel)
    near_db = float(error_db[near].max(initial=0.0))
    found = f"{spec.preset}: {reached:.2g} of eps n_fft peak, {near_db:.2g} dB near the peak"
    print(found)
    assert reached <= MEL_BOUND[spec.spectrum], found
    assert near_db <= NEAR_DB, found


def stacked(
    clips: list[NDArray[np.float32]] | list[NDArray[np.int16]], room: int = 0
) -> tuple[NDArray[np.float32] | NDArray[np.int16], NDArray[np.int64]]:
    """Clips as rows [B, N] and their lengths; what is after a clip must not be read."""
    lengths = np.array([len(clip) for clip in clips], np.int64)
    stale = -12_345 if clips[0].dtype == np.int16 else np.nan
    rows = np.full((len(clips), int(lengths.max()) + room), stale, clips[0].dtype)
    for row, clip in zip(rows, clips, strict=True):
        row[: len(clip)] = clip
    return rows, lengths


def padding_value(spec: FrontendSpec) -> np.float32:
    """A zero of log-mel before the normalisation."""
    return np.float32(-spec.mean / (1.0 if spec.std is None else 2.0 * spec.std))
