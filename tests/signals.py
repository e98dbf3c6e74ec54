"""Synthetic test audio: ``f(seconds, rate, seed=0)`` gives float32 [N] in [-1, 1]."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Signal = Callable[..., Samples]


def _time(seconds: float, rate: int) -> NDArray[np.float64]:
    return np.arange(round(seconds * rate)) / rate


def _as_samples(x: NDArray[np.float64], peak: float) -> Samples:
    top = np.abs(x).max(initial=0.0)
    return (x * (peak / top) if top else x).astype(np.float32)


def chirp(seconds: float, rate: int, seed: int = 0) -> Samples:
    """Linear sweep from 20 Hz to 0.45 of the rate; the seed sets the phase."""
    t = _time(seconds, rate)
    slope = (0.45 * rate - 20.0) / max(seconds, 1.0 / rate)
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    return (0.8 * np.sin(phase + 2 * np.pi * (20.0 * t + 0.5 * slope * t * t))).astype(np.float32)


def tone(seconds: float, rate: int, seed: int = 0) -> Samples:
    """Harmonic tone: a seeded pitch between 80 and 400 Hz and its overtones up to 0.45 rate."""
    rng = np.random.default_rng(seed)
    t, pitch = _time(seconds, rate), rng.uniform(80.0, 400.0)
    x = np.zeros_like(t)
    for k in range(1, min(20, int(0.45 * rate / pitch)) + 1):
        x += np.sin(2 * np.pi * k * pitch * t + rng.uniform(0, 2 * np.pi)) / k
    return _as_samples(x, 0.7)


def noise_burst(seconds: float, rate: int, seed: int = 0) -> Samples:
    """White noise in the middle third, silence around it."""
    n = round(seconds * rate)
    x = np.random.default_rng(seed).standard_normal(n)
    x[: n // 3] = 0.0
    x[2 * n // 3 :] = 0.0
    return _as_samples(x, 0.9)


def noise(seconds: float, rate: int, seed: int = 0) -> Samples:
    """White Gaussian noise."""
    return _as_samples(np.random.default_rng(seed).standard_normal(round(seconds * rate)), 0.9)


def silence(seconds: float, rate: int, seed: int = 0) -> Samples:
    """Zeros."""
    return np.zeros(round(seconds * rate), np.float32)


def clicks(seconds: float, rate: int, seed: int = 0) -> Samples:
    """Single samples of full scale and either sign, about ten a second."""
    n = round(seconds * rate)
    rng = np.random.default_rng(seed)
    x = np.zeros(n, np.float32)
    if n:
        at = rng.integers(0, n, size=max(1, round(10 * seconds)))
        x[at] = rng.choice(np.array([-1.0, 1.0], np.float32), size=at.size)
    return x


def square(seconds: float, rate: int, seed: int = 0) -> Samples:
    """Full-scale square wave between 50 and 500 Hz, not band-limited."""
    pitch = np.random.default_rng(seed).uniform(50.0, 500.0)
    return np.where((_time(seconds, rate) * pitch) % 1.0 < 0.5, 1.0, -1.0).astype(np.float32)


def speech_like(seconds: float, rate: int, seed: int = 0) -> Samples:
    """Harmonics of a gliding pitch under moving formants, in syllables of about 4 Hz."""
    rng = np.random.default_rng(seed)
    t = _time(seconds, rate)
    pitch = rng.uniform(90, 220) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.3, 0.8) * t))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    syllables = np.sin(np.pi * rng.uniform(3.5, 4.5) * t) ** 2
    formants = [
        centre * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.5, 2.0) * t + rng.uniform(0, 6)))
        for centre in (600.0, 1400.0, 2600.0)
    ]
    x = np.zeros_like(t)
    for k in range(1, 31):
        envelope = sum(np.exp(-(((k * pitch - f) / 250.0) ** 2)) for f in formants)
        x += np.where(k * pitch < 0.45 * rate, envelope + 0.02, 0.0) * np.sin(k * phase)
    breath = 0.005 * rng.standard_normal(t.size)
    return _as_samples(x * syllables + breath * syllables, 0.6)


SIGNALS: dict[str, Signal] = {
    f.__name__: f for f in (chirp, tone, noise_burst, noise, silence, clicks, square, speech_like)
}
