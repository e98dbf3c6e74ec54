"""Synthesise the clips of this folder that are not speech: music, rain, a bell and a dog.

Run it with any Python that has NumPy; it writes beside itself. See README.md for the speech.
"""

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
Samples = NDArray[np.float64]


def pluck(pitch: float, seconds: float, rng: np.random.Generator) -> Samples:
    """A plucked string: Karplus and Strong's filtered delay line (1983)."""
    period = round(RATE / pitch)
    string = np.empty(round(seconds * RATE) + 2 * period)
    string[:period] = rng.uniform(-1, 1, period)
    string[:period] -= string[:period].mean()  # or the loop would hold a constant as well
    # Period after period, each sample the mean of two neighbours one period ago.
    for start in range(period, string.size, period):
        stop = min(start + period, string.size)
        ago = string[start - period : stop - period]
        before = np.concatenate([[string[max(0, start - period - 1)]], ago[:-1]])
        string[start:stop] = 0.996 * 0.5 * (ago + before)
    return string[period : period + round(seconds * RATE)]


def mix(parts: Sequence[tuple[float, Samples]], seconds: float) -> Samples:
    """Sounds, each at its time in seconds; what rings on after the end is cut."""
    out = np.zeros(round(seconds * RATE))
    for at, sound in parts:
        start = round(at * RATE)
        stop = min(start + sound.size, out.size)
        out[start:stop] += sound[: stop - start]
    return out


def melody() -> Samples:
    """Single notes, up and down a pentatonic scale."""
    rng = np.random.default_rng(1)
    notes = [57, 60, 62, 64, 67, 69, 67, 64, 62, 60, 57, 52]
    pitches = [440.0 * 2 ** ((note - 69) / 12) for note in notes]
    return mix([(0.28 * i, pluck(p, 1.2, rng)) for i, p in enumerate(pitches)], 3.8)


def chords() -> Samples:
    """Four strummed chords: C, A minor, F, G."""
    rng = np.random.default_rng(2)
    parts = []
    for i, chord in enumerate(
        [(48, 52, 55, 60), (45, 52, 57, 60), (41, 48, 53, 57), (43, 50, 55, 59)]
    ):
        for string, note in enumerate(chord):
            pitch = 440.0 * 2 ** ((note - 69) / 12)
            parts.append((0.95 * i + 0.03 * string, pluck(pitch, 1.6, rng)))
    return mix(parts, 3.8)


def rain() -> Samples:
    """A hiss that falls towards low frequencies, and drops that ring for some milliseconds."""
    rng, seconds = np.random.default_rng(3), 3.5
    n = round(seconds * RATE)
    spectrum = np.fft.rfft(rng.standard_normal(n))
    frequency = np.fft.rfftfreq(n, 1 / RATE)
    hiss = np.fft.irfft(spectrum * frequency / (frequency + 1_500.0), n)
    hiss *= 1 + 0.2 * np.sin(2 * np.pi * 0.4 * np.arange(n) / RATE)
    parts = []
    for _ in range(500):
        t = np.arange(round(0.03 * RATE)) / RATE
        ring = np.exp(-t / rng.uniform(0.001, 0.006)) * np.sin(
            2 * np.pi * rng.uniform(1_500, 6_500) * t
        )
        parts.append((rng.uniform(0, seconds - 0.04), rng.exponential(1.5) * ring))
    return hiss + mix(parts, seconds)


def bell() -> Samples:
    """Two strokes of a church bell: hum, prime, tierce, quint, nominal and higher partials."""
    rng = np.random.default_rng(4)
    ratios = [0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 2.67, 3.0, 4.0, 5.3, 6.8]
    t = np.arange(round(3.8 * RATE)) / RATE
    stroke = np.zeros_like(t)
    for ratio in ratios:
        # Cast metal is never quite round: each partial is two that beat.
        for pitch in 420.0 * ratio * (1 + np.array([-0.0008, 0.0008])):
            decay = 2.2 / ratio**0.8
            level = rng.uniform(0.5, 1.0) / ratio**0.4
            stroke += level * np.exp(-t / decay) * np.sin(2 * np.pi * pitch * t)
    stroke *= np.minimum(1.0, t / 0.002)
    return mix([(0.0, stroke), (1.9, 0.9 * stroke)], 3.8)


def bark(rng: np.random.Generator) -> Samples:
    """One bark: a pitch that rises and falls, harmonics under two formants, and rough breath."""
    seconds = rng.uniform(0.16, 0.2)
    t = np.arange(round(seconds * RATE)) / RATE
    x = t / seconds
    pitch = rng.uniform(330, 370) * (1 + 0.7 * np.sin(np.pi * x**0.7))
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.02 * rng.standard_normal(t.size))) / RATE
    voice = np.zeros_like(t)
    for k in range(1, 20):
        formants = sum(np.exp(-(((k * pitch - f) / 350) ** 2)) for f in (850, 1_750))
        voice += np.where(k * pitch < 7_000, formants + 0.03, 0.0) * np.sin(k * phase)
    breath = 0.25 * rng.standard_normal(t.size)
    return (voice + breath) * np.minimum(1.0, x / 0.08) * (1 - x) ** 1.2


def dog() -> Samples:
    """Three barks, a pause, two more, in a quiet room."""
    rng, seconds = np.random.default_rng(5), 3.5
    barks = mix([(at, bark(rng)) for at in (0.15, 0.55, 0.95, 2.1, 2.5)], seconds)
    n = round(0.3 * RATE)
    room = np.exp(-np.arange(n) / (0.06 * RATE)) * rng.standard_normal(n) * 0.04
    room[0] = 1.0
    return np.convolve(barks, room)[: barks.size] + 0.0015 * rng.standard_normal(barks.size)


CLIPS = {"music_melody": melody, "music_chords": chords, "rain": rain, "bell": bell, "dog": dog}


def pcm(samples: Samples) -> NDArray[np.int16]:
    """16-bit samples with a peak of 0.8 and 10 ms of fade at the end."""
    samples = samples * (0.8 / np.abs(samples).max())
    fade = round(0.01 * RATE)
    samples[-fade:] *= np.linspace(1, 0, fade)
    return np.round(samples * 32_767).astype("<i2")


def main() -> None:
    """Write every clip."""
    for name, make in CLIPS.items():
        with wave.open(str(Path(__file__).with_name(f"{name}.wav")), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(pcm(make()).tobytes())


if __name__ == "__main__":
    main()
