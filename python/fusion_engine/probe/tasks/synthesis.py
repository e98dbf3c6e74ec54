"""The sounds of the synthetic tasks: one second each, with every property that is no class random.

A sound is a function of its class and a random generator. What must not give the class away
(level, phase, onset, tuning, noise floor; the pitch where timbre is asked, the carrier where
rhythm is asked) is drawn anew for every clip.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
SAMPLES = SAMPLE_RATE

_Wave = NDArray[np.float64]
_Random = np.random.Generator
_TIME: _Wave = np.arange(SAMPLES) / SAMPLE_RATE


def clip(task: str, label: str, rng: _Random) -> NDArray[np.int16]:
    """One clip [16000] of ``SOUNDS[task]``, PCM16 at 16 kHz."""
    sound = _unit(SOUNDS[task][label](rng))
    noise = 10 ** (-rng.uniform(*_SNR[task]) / 20)
    wave = sound + noise * rng.standard_normal(SAMPLES)
    wave *= 10 ** (rng.uniform(-20, -3) / 20) / np.abs(wave).max()
    samples: NDArray[np.int16] = np.round(wave * 32_767).astype(np.int16)
    return samples


def _unit(wave: _Wave) -> _Wave:
    """``wave`` at an RMS of 1."""
    scaled: _Wave = wave / np.sqrt(np.mean(wave**2))
    return scaled


def _tone(rng: _Random, hertz: float, amplitudes: _Wave, stretch: float = 0.0) -> _Wave:
    """Partials at multiples of ``hertz``, random phases; ``stretch`` makes them inharmonic."""
    order = np.arange(1, len(amplitudes) + 1)
    frequencies = hertz * order ** (1 + stretch)
    audible = frequencies < 0.45 * SAMPLE_RATE
    phases = rng.uniform(0, 2 * np.pi, len(order))
    partials = np.sin(2 * np.pi * frequencies[:, None] * _TIME + phases[:, None])
    wave: _Wave = (amplitudes * audible) @ partials
    return wave * _envelope(rng)


def _envelope(rng: _Random) -> _Wave:
    """A note: silence, an attack of 5 to 50 ms, then a decay."""
    onset, attack = rng.uniform(0, 0.2), rng.uniform(0.005, 0.05)
    since = _TIME - onset
    envelope: _Wave = np.clip(since / attack, 0, 1) * np.exp(
        -np.clip(since, 0, None) * rng.uniform(0, 3)
    )
    return envelope


def _pitch(semitone: int) -> Callable[[_Random], _Wave]:
    """A note above 220 Hz, somewhat out of tune, of any colour, with a band of noise anywhere.

    The band and the random partials keep the spectrum's gross shape from giving the note away.
    """

    def sound(rng: _Random) -> _Wave:
        hertz = 220 * 2 ** ((semitone + rng.uniform(-0.3, 0.3)) / 12)
        amplitudes = 10 ** (rng.uniform(-30, 0, 8) / 20)
        return _unit(_tone(rng, hertz, amplitudes)) + _band(rng, 300 * 2 ** rng.uniform(0, 4), 0.7)

    return sound


def _timbre(amplitudes: _Wave, stretch: float = 0.0) -> Callable[[_Random], _Wave]:
    """A colour, at any pitch of two octaves."""

    def sound(rng: _Random) -> _Wave:
        hertz = 150 * 2 ** rng.uniform(0, 2)
        return _tone(rng, hertz, amplitudes * rng.uniform(0.6, 1.4, len(amplitudes)), stretch)

    return sound


def _rhythm(rate: float) -> Callable[[_Random], _Wave]:
    """Pulses at ``rate`` Hz, up to 5 % off, of a tone or of noise."""

    def sound(rng: _Random) -> _Wave:
        pulses = _TIME * rate * rng.uniform(0.95, 1.05) + rng.uniform()
        gate = np.exp(-(pulses % 1) * rng.uniform(3, 6))
        hertz = 300 * 2 ** rng.uniform(0, 3)
        if rng.uniform() < 0.5:
            carrier = _band(rng, hertz, 1.0)
        else:
            carrier = np.sin(2 * np.pi * (hertz * _TIME + rng.uniform()))
        pulsed: _Wave = carrier * gate
        return pulsed

    return sound


def _band(rng: _Random, hertz: float, octaves: float) -> _Wave:
    """Noise in a band of ``octaves`` around ``hertz``."""
    spectrum = np.fft.rfft(rng.standard_normal(SAMPLES))
    frequencies = np.maximum(np.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE), 1.0)
    spectrum[np.abs(np.log2(frequencies / hertz)) > octaves / 2] = 0
    return _unit(np.fft.irfft(spectrum, SAMPLES))


def _hiss(rng: _Random) -> _Wave:
    return _band(rng, rng.uniform(2_500, 4_500), 1.5)


def _rumble(rng: _Random) -> _Wave:
    return _band(rng, rng.uniform(120, 250), 1.5)


def _crackle(rng: _Random) -> _Wave:
    wave = np.zeros(SAMPLES)
    for start in rng.integers(0, SAMPLES - 400, rng.integers(15, 40)):
        decay = np.exp(-np.arange(400) / rng.uniform(10, 40))
        wave[start : start + 400] += rng.standard_normal(400) * decay * rng.uniform(0.3, 1)
    return wave


def _thumps(rng: _Random) -> _Wave:
    wave = np.zeros(SAMPLES)
    for start in rng.integers(0, SAMPLES - 3_200, rng.integers(2, 5)):
        time = _TIME[:3_200]
        sweep = rng.uniform(80, 140) * time + rng.uniform(1, 3) * (1 - np.exp(-time * 40))
        wave[start : start + 3_200] += np.sin(2 * np.pi * sweep) * np.exp(-time * 20)
    return wave + 0.05 * rng.standard_normal(SAMPLES)


def _sweep(direction: int) -> Callable[[_Random], _Wave]:
    """Noise whose band climbs, or falls, through two octaves."""

    def sound(rng: _Random) -> _Wave:
        start = rng.uniform(500, 900) * (1 if direction > 0 else 4)
        seconds = rng.uniform(0.2, 0.5)
        octaves = direction * 2 * np.clip((_TIME - rng.uniform(0, 0.4)) / seconds, 0, 1)
        phase = 2 * np.pi * np.cumsum(start * 2**octaves) / SAMPLE_RATE
        moving = (octaves != 0) & (np.abs(octaves) < 2)
        wobble = _band(rng, 60, 2.0)
        wave: _Wave = np.sin(phase + wobble) * moving
        return wave

    return sound


# Decibels between sound and noise floor: such that no task is hopeless, and none is trivial.
_SNR = {"pitch": (-5, 10), "timbre": (15, 30), "rhythm": (15, 30), "events": (-5, 10)}

_ORDER = np.arange(1, 13, dtype=np.float64)
_ODD = _ORDER % 2
SOUNDS: Mapping[str, Mapping[str, Callable[[_Random], _Wave]]] = {
    "pitch": {
        note: _pitch(semitone)
        for semitone, note in enumerate(
            ("A3", "A#3", "B3", "C4", "C#4", "D4", "D#4", "E4", "F4", "F#4", "G4", "G#4")
        )
    },
    "timbre": {
        "flute": _timbre(np.array([1.0, 0.1, 0.02])),
        "clarinet": _timbre(_ODD / _ORDER),
        "saw": _timbre(1 / _ORDER),
        "bright": _timbre(np.ones(12)),
        "nasal": _timbre(np.exp(-((_ORDER - 5) ** 2) / 4)),
        "bell": _timbre(_ORDER**-0.7, stretch=0.15),
    },
    "rhythm": {f"{rate} Hz": _rhythm(rate) for rate in (3, 5, 8, 13, 21)},
    "events": {
        "hiss": _hiss,
        "rumble": _rumble,
        "crackle": _crackle,
        "thumps": _thumps,
        "rise": _sweep(1),
        "fall": _sweep(-1),
    },
}
