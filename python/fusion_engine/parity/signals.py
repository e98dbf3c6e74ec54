"""The fixed, seeded audio on which every artifact is compared."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..spec import Spec

Samples = NDArray[np.float32]
_Wave = Callable[[NDArray[np.float64], int, np.random.Generator], NDArray[np.float64]]

# A clip longer than one run takes is made only up to this length: the reference, in FP64, takes a
# clip as a whole.
LONGEST_SECONDS = 75.0


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A synthetic clip, the same at every call.

    Args:
        kind: a name in ``KINDS``.
        seconds: its length.
        seed: sets pitches, phases and noise.
    """

    kind: str
    seconds: float
    seed: int = 0

    @property
    def name(self) -> str:
        """Kind and length."""
        return f"{self.kind} {self.seconds:g} s"

    def samples(self, rate: int) -> Samples:
        """Samples [N] in [-1, 1] at ``rate`` Hz; at least one."""
        count = max(1, round(self.seconds * rate))
        rng = np.random.default_rng([self.seed, *self.kind.encode()])
        return KINDS[self.kind](np.arange(count) / rate, rate, rng).astype(np.float32)


def longest_seconds(spec: Spec) -> float:
    """The longest clip that an artifact takes; infinite where longer ones are cut."""
    if spec.segment is not None or spec.chunk_margin is not None:
        return math.inf
    return spec.frontend.samples(spec.max_frames) / spec.frontend.sample_rate


def default_signals(spec: Spec, *, least_frames: int | None = None) -> tuple[Signal, ...]:
    """Every kind of signal, in lengths that take every way through the engine.

    Shorter than the model's minimum, odd numbers of frames, several segments of a model that takes
    segments, and, for a model that cuts long clips into chunks, one clip longer than a run takes.
    Where an artifact takes no shorter or no longer clips at all, none is.

    Args:
        spec: the artifact's.
        least_frames: the shortest input, where that is longer than the model's minimum: some plans.
    """
    signals = [
        Signal(kind="noise", seconds=0.05),
        Signal(kind="tone", seconds=0.31),
        Signal(kind="silence", seconds=1.0),
        Signal(kind="square", seconds=1.2345),
        Signal(kind="clicks", seconds=2.5),
        Signal(kind="bursts", seconds=3.3333),
        Signal(kind="speech", seconds=5.0171),
        Signal(kind="chirp", seconds=10.0),
    ]
    front = spec.frontend
    if spec.masked:
        # Frames that all count, in a number that is no bucket's: what comes after them shows.
        seconds = front.samples(9 * (spec.frames_per_step or 1)) / front.sample_rate
        signals.append(Signal(kind="noise", seconds=seconds, seed=1))
    run = spec.max_frames * front.hop_length / front.sample_rate
    if spec.segment is not None:
        several = round(2.4 * run, 2)
        if signals[-1].seconds < several <= LONGEST_SECONDS:
            signals.append(Signal(kind="speech", seconds=several, seed=1))
        return tuple(signals)
    shortest, longest = 0.0, longest_seconds(spec)
    if spec.chunk_margin is not None:
        longer = round(1.05 * run + 1.234, 3)
        if longer <= LONGEST_SECONDS:
            signals.append(Signal(kind="speech", seconds=longer, seed=1))
    if least_frames is not None and least_frames > spec.min_frames:
        shortest = front.samples(least_frames) / front.sample_rate
    return tuple(
        replace(signal, seconds=min(max(signal.seconds, shortest), longest)) for signal in signals
    )


def _peak(x: NDArray[np.float64], peak: float) -> NDArray[np.float64]:
    top = float(np.abs(x).max(initial=0.0))
    return x * (peak / top) if top else x


def _chirp(t: NDArray[np.float64], rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A linear sweep from 20 Hz to 0.45 of the rate."""
    slope = (0.45 * rate - 20.0) * rate / len(t)
    return 0.8 * np.sin(rng.uniform(0, 2 * np.pi) + 2 * np.pi * (20.0 * t + 0.5 * slope * t * t))


def _tone(t: NDArray[np.float64], rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A pitch between 80 and 400 Hz with up to 20 overtones."""
    pitch = rng.uniform(80.0, 400.0)
    orders = np.arange(1, min(20, int(0.45 * rate / pitch)) + 1)
    phases = rng.uniform(0, 2 * np.pi, orders.size)
    partials = (
        np.sin(2 * np.pi * k * pitch * t + p) / k for k, p in zip(orders, phases, strict=True)
    )
    return _peak(sum(partials, np.zeros_like(t)), 0.7)


def _noise(t: NDArray[np.float64], rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """White noise."""
    return _peak(rng.standard_normal(t.size), 0.9)


def _bursts(t: NDArray[np.float64], rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """White noise, 0.2 s of it in every 0.7 s, digital silence between."""
    return _peak(rng.standard_normal(t.size) * (t % 0.7 < 0.2), 0.9)


def _silence(t: NDArray[np.float64], rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return np.zeros_like(t)


def _clicks(t: NDArray[np.float64], rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Single samples of full scale and either sign, about ten a second."""
    x = np.zeros_like(t)
    at = rng.integers(0, t.size, max(1, 10 * t.size // rate))
    x[at] = rng.choice([-1.0, 1.0], at.size)
    return x


def _square(t: NDArray[np.float64], rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Full scale, between 50 and 500 Hz, not band-limited."""
    return np.where((t * rng.uniform(50.0, 500.0)) % 1.0 < 0.5, 1.0, -1.0)


def _speech(t: NDArray[np.float64], rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Harmonics of a gliding pitch under three moving formants, in syllables of about 4 Hz."""
    pitch = rng.uniform(90.0, 220.0) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.3, 0.8) * t))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formants = [
        centre * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.5, 2.0) * t))
        for centre in (600.0, 1_400.0, 2_600.0)
    ]
    x = np.zeros_like(t)
    for k in range(1, 25):
        level = 0.02 + sum(np.exp(-(((k * pitch - f) / 250.0) ** 2)) for f in formants)
        x += np.where(k * pitch < 0.45 * rate, level, 0.0) * np.sin(k * phase)
    x += 0.005 * rng.standard_normal(t.size)
    return _peak(x * np.sin(np.pi * rng.uniform(3.5, 4.5) * t) ** 2, 0.6)


KINDS: dict[str, _Wave] = {
    "chirp": _chirp,
    "tone": _tone,
    "noise": _noise,
    "bursts": _bursts,
    "silence": _silence,
    "clicks": _clicks,
    "square": _square,
    "speech": _speech,
}
