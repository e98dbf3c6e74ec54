import hashlib
from dataclasses import replace

import numpy as np
import pytest

from fusion_engine.artifact import read_spec
from fusion_engine.engine.cut import pieces_of
from fusion_engine.parity import Signal, default_signals
from fusion_engine.parity.signals import KINDS

from .conftest import Exported


@pytest.mark.parametrize("kind", KINDS)
def test_signals_are_audio_and_stay_the_same(kind: str) -> None:
    signal = Signal(kind=kind, seconds=1.2345)
    samples = signal.samples(16_000)
    assert samples.shape == (19_752,)
    assert samples.dtype == np.float32
    assert np.abs(samples).max() <= 1.0
    assert np.array_equal(samples, signal.samples(16_000))
    if kind not in ("silence", "square", "clicks"):
        other = Signal(kind=kind, seconds=1.2345, seed=1).samples(16_000)
        assert not np.array_equal(samples, other)
    assert bool(samples.any()) is (kind != "silence")


def test_the_noise_is_that_of_every_machine() -> None:
    # NumPy keeps the streams of its generators from version to version.
    samples = Signal(kind="noise", seconds=0.05).samples(16_000)
    coarse = np.round(samples * 1_000).astype("<i2")
    assert hashlib.sha256(coarse.tobytes()).hexdigest()[:16] == "8b9db257fb660a1f"


def test_default_signals_take_every_way(cnn14: Exported, vggish: Exported, ast: Exported) -> None:
    for made, short, long in ((cnn14, 32, 321), (vggish, 96, 193), (ast, 128, 257)):
        spec = read_spec(made.artifact)
        frames = [
            max(1, spec.frontend.frames(len(signal.samples(spec.frontend.sample_rate))))
            for signal in default_signals(spec)
        ]
        assert min(frames) < short
        assert max(frames) >= long
        assert any(count % 32 for count in frames)
        assert len(pieces_of(spec, max(frames))) > 1
    assert {signal.kind for signal in default_signals(spec)} == KINDS.keys()


def test_default_signals_fit_what_takes_no_shorter_or_longer_clips(cnn14: Exported) -> None:
    spec = read_spec(cnn14.artifact)
    rate = spec.frontend.sample_rate

    def frames(signals: tuple[Signal, ...]) -> list[int]:
        return [spec.frontend.frames(len(signal.samples(rate))) for signal in signals]

    least = frames(default_signals(spec, least_frames=201))
    assert min(least) == 201  # a plan's profile
    assert max(least) == max(frames(default_signals(spec)))
    # Not to be cut, as with layer 7: the longest is what one run takes.
    assert max(frames(default_signals(replace(spec, chunk_margin=None)))) == spec.max_frames == 320
