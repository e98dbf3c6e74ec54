"""Clips of different lengths in one batch, each against itself alone."""

from dataclasses import replace

import numpy as np
import pytest

import fusion_engine as fe
from fusion_engine.engine.cut import bucket

from .. import signals
from ..exports import change_spec
from .cuda.artifacts import CHUNKED, DROPPED, PADDED, RAGGED, write_artifact

RATE = 16_000


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Of a masked artifact, and of the same network without the mask."""
    folder = tmp_path_factory.mktemp("ragged")
    paths = [write_artifact(folder / f"{spec.model}.onnx", spec) for spec in (RAGGED, CHUNKED)]
    return [fe.Engine(path, device="cpu") for path in paths]


def clips(count, longest, seed=0):
    """Of random lengths, the shortest and odd ones among them."""
    lengths = np.random.default_rng(seed).integers(1, round(longest * RATE), count)
    lengths[:6] = 1, 31 * 160 - 1, 31 * 160, 32 * 160, 33 * 160 + 7, round(longest * RATE)
    return [signals.noise(n / RATE, RATE, seed)[:n] for seed, n in enumerate(lengths.tolist())]


def test_two_hundred_clips_of_random_lengths(engines):
    """As long as a run takes at most."""
    ragged, plain = engines
    x = clips(200, 5.9)
    alone = np.stack([ragged.embed(clip) for clip in x])
    before = ragged.stats.runs
    got = ragged.embed(x)
    runs = ragged.stats.runs - before
    frames = {max(32, 1 + len(clip) // 160) for clip in x}
    print(f"{len(frames)} lengths in {runs} runs")
    assert len(frames) > 140
    # One length of four to a doubling of 32 to 591 frames, of which a run has as many as fit.
    assert len({bucket(n) for n in frames}) <= 18
    assert runs < len(frames)
    worst = np.abs(got - alone).max(axis=1) / np.abs(alone).max(axis=1)
    assert worst.max() <= 1e-6
    expected = np.stack([plain.embed(clip) for clip in x])
    assert (np.abs(got - expected).max(axis=1) <= 1e-6 * np.abs(expected).max(axis=1)).all()


@pytest.mark.parametrize("seconds", [0.1, 1.234, 5.99, 6.5, 23.4])
def test_the_rest_of_the_engine_is_as_without_a_mask(engines, seconds):
    """Frame features, layer outputs, and clips longer than a run, which go in chunks."""
    ragged, plain = engines
    x = signals.noise(seconds, RATE)
    for head in ("mean_max", "mean", "max"):
        np.testing.assert_allclose(ragged.embed(x, head=head), plain.embed(x, head=head), rtol=1e-6)
    np.testing.assert_array_equal(ragged.embed_frames(x), plain.embed_frames(x))
    outputs = plain.layer_outputs(x)
    for name, values in ragged.layer_outputs(x).items():
        np.testing.assert_array_equal(values, outputs[name])


def test_windows_of_a_recording(engines):
    x = signals.noise(7.3, RATE)
    items = [("a", x), ("b", x[:50_000])]
    found = [list(engine.embed_stream(items, window=2.0, hop=0.7)) for engine in engines]
    for a, b in zip(*found, strict=True):
        assert a[:3] == b[:3]
        np.testing.assert_allclose(a.result, b.result, rtol=1e-6)


def test_bad_clips_leave_the_others_their_answers(engines):
    ragged, _ = engines
    x = clips(12, 2.0, seed=1)
    x[7] = np.full(9_000, np.nan, np.float32)
    found = {key: result for key, _, _, result in ragged.embed_stream(enumerate(x))}
    assert isinstance(found.pop(7), fe.AudioError)
    for row, result in found.items():
        np.testing.assert_allclose(result, ragged.embed(x[row]), rtol=1e-6)


def test_buckets():
    lengths = np.arange(1, 7_000)
    padded = np.array([bucket(int(n)) for n in lengths])
    assert (padded >= lengths).all()
    assert ((padded - lengths) / padded).max() <= 1 / 5
    assert all(bucket(int(n)) == n for n in set(padded.tolist()))
    per_doubling = len({bucket(n) for n in range(1_025, 2_049)})
    assert per_doubling == 4
    second_to_minute = slice(100, 6_001)
    assert len(set(padded[second_to_minute].tolist())) == 24
    assert ((padded - lengths) / padded)[second_to_minute].mean() <= 0.1


def test_the_spec_says_which_models_may_be_masked():
    for spec in (DROPPED, PADDED):
        with pytest.raises(fe.ArtifactError, match="masked is True, of a model whose inputs"):
            replace(spec, masked=True)
    assert RAGGED.space == replace(CHUNKED, model="ragged").space


def test_a_spec_that_is_not_the_graphs(tmp_path):
    """Of a graph with the second input, and of one without."""
    masked = write_artifact(tmp_path / "a.onnx", RAGGED)
    plain = write_artifact(tmp_path / "b.onnx", CHUNKED)
    for path, value in ((masked, False), (plain, True)):
        wrong = change_spec(path, tmp_path / "wrong.onnx", masked=value)
        with pytest.raises(fe.ArtifactError, match=r"the graph has inputs .*, its spec says"):
            fe.Engine(wrong, device="cpu")
