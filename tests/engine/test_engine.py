"""What the engine promises about any artifact: shapes, order, bits, threads, chunks, errors."""

import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import soundfile
import soxr

import fusion_engine as fe
from fusion_engine.audio import decode_ahead
from fusion_engine.engine import dispatch
from fusion_engine.engine.precision import emulated_model, typed_model

from .. import signals
from ..exports import change_spec, with_layers
from .cuda.artifacts import SPECS, write_artifact

RATE = 16_000


@pytest.fixture(scope="module")
def artifacts(two_layers, tmp_path_factory):
    """Artifacts of CNN14's first blocks, random weights, as exports of these layers alone."""
    folder = tmp_path_factory.mktemp("artifacts")

    def get(*layers, seconds=60.0):
        path = folder / f"{'_'.join(map(str, layers))}_{seconds}.onnx"
        frames = 1 + round(seconds * 100)
        return path if path.exists() else with_layers(two_layers, path, layers, max_frames=frames)

    return get


@pytest.fixture(scope="module")
def deep(cnn14_fusion, cnn14_all, tmp_path_factory):
    """The same of any layers."""
    folder = tmp_path_factory.mktemp("deep")

    def get(*layers, seconds=60.0):
        path = folder / f"{'_'.join(map(str, layers))}_{seconds}.onnx"
        frames = 1 + round(seconds * 100)
        if path.exists():
            return path
        if layers != (3, 6):
            return with_layers(cnn14_all.path, path, layers, max_frames=frames)
        if frames == cnn14_fusion.spec.max_frames:
            return cnn14_fusion.path
        return change_spec(cnn14_fusion.path, path, max_frames=frames)

    yield get
    for path in folder.iterdir():
        path.unlink()  # up to 300 MB, and pytest keeps the folders of the last runs


@pytest.fixture(scope="module")
def engine(deep):
    """CNN14-Fusion."""
    return fe.Engine(deep(3, 6))


@pytest.fixture(scope="module")
def small(artifacts):
    """Layer 2 alone: quick to run."""
    return fe.Engine(artifacts(2))


def clips(count, seed=0):
    """Short clips of different lengths, some alike."""
    rng = np.random.default_rng(seed)
    kinds = [s for s in signals.SIGNALS.values() if s is not signals.silence]
    lengths = rng.choice([0.05, 0.4, 0.77, 1.0, 1.3], count)
    return [kinds[i % len(kinds)](length, RATE, i) for i, length in enumerate(lengths)]


def test_what_the_engine_says_of_itself(engine):
    assert engine.sample_rate == RATE
    assert engine.embedding_dim == 6144
    assert engine.frame_rate == 3.125
    assert engine.device == "cpu"
    assert engine.backend.startswith("onnxruntime 1.")
    assert [layer.name for layer in engine.spec.layers] == ["layer_3", "layer_6"]


def test_shapes_and_types(engine):
    x = signals.speech_like(1.3, RATE)
    one = engine.embed(x)
    assert (one.shape, one.dtype) == ((6144,), np.float32)
    assert engine.embed(x[None]).shape == (1, 6144)
    assert engine.embed([x]).shape == (1, 6144)
    assert engine.embed([]).shape == (0, 6144)
    frames = engine.embed_frames(x)
    assert (frames.shape, frames.dtype) == ((6144, 131 // 32), np.float32)
    outputs = engine.layer_outputs(x)
    assert {name: value.shape for name, value in outputs.items()} == {
        "layer_3": (256, 131 // 8, 8),
        "layer_6": (2048, 131 // 32, 2),
    }


def test_the_embedding_is_pooled_frame_features(artifacts):
    engine, x = fe.Engine(artifacts(2, 1)), signals.chirp(2.5, RATE)
    z = engine.embed_frames(x).astype(np.float64)
    for head, expected in (
        (None, z.mean(axis=1) + z.max(axis=1)),
        ("mean_max", z.mean(axis=1) + z.max(axis=1)),
        ("mean", z.mean(axis=1)),
        ("max", z.max(axis=1)),
    ):
        np.testing.assert_allclose(engine.embed(x, head=head), expected, rtol=0, atol=2e-6)


def test_a_clip_has_the_same_bits_in_any_company(deep):
    for layers in ((3, 6), (7, 1)):
        engine = fe.Engine(deep(*layers))
        alone = [engine.embed(clip) for clip in clips(12)]
        for got, expected in zip(engine.embed(clips(12)), alone, strict=True):
            assert np.array_equal(got, expected), layers
        batch = np.stack([clip for clip in clips(40) if len(clip) == RATE])
        assert len(batch) > 3
        for got, row in zip(engine.embed(batch), batch, strict=True):
            assert np.array_equal(got, engine.embed(row)), layers


def test_a_list_longer_than_a_window_keeps_its_order(small, monkeypatch):
    monkeypatch.setattr("fusion_engine.engine.dispatch.BATCH_SECONDS", 2.0)
    many = clips(20)
    together = small.embed(many, sample_rate=RATE // 2)
    for got, clip in zip(together, many, strict=True):
        assert np.array_equal(got, small.embed(clip, sample_rate=RATE // 2))


def test_eight_threads_give_what_one_gives(small):
    many = clips(300)
    alone = [small.embed(clip) for clip in many]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(small.embed, many))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_threads_share_one_engine_at_different_calls(engine):
    x = signals.tone(1.0, RATE)
    expected = engine.embed(x), engine.embed_frames(x), engine.layer_outputs(x)["layer_3"]
    start = threading.Barrier(3)

    def call(function):
        start.wait()
        return [function(x) for _ in range(5)]

    calls = engine.embed, engine.embed_frames, lambda x: engine.layer_outputs(x)["layer_3"]
    with ThreadPoolExecutor(3) as pool:
        for got, value in zip(pool.map(call, calls), expected, strict=True):
            assert all(np.array_equal(one, value) for one in got)


def test_inputs_that_mean_the_same(small, tmp_path):
    pcm = (signals.speech_like(1.1, RATE) * 32_767).astype(np.int16)
    expected = small.embed(pcm)
    path = tmp_path / "clip.wav"
    soundfile.write(path, pcm, RATE)
    assert np.array_equal(small.embed(path), expected)
    assert np.array_equal(small.embed(str(path)), expected)
    assert np.array_equal(small.embed(pcm.astype(np.float32) / 32_768), expected)
    assert np.array_equal(small.embed(pcm.astype(np.float64) / 32_768), expected)
    assert np.array_equal(small.embed(pcm, sample_rate=RATE), expected)
    stereo = tmp_path / "stereo.flac"
    soundfile.write(stereo, np.stack([pcm, pcm], axis=1), RATE)
    mixed = small.embed([path, pcm, stereo])
    assert all(np.array_equal(row, expected) for row in mixed)


def test_another_rate_is_resampled_by_soxr(small, tmp_path):
    x = signals.speech_like(1.1, 44_100)
    expected = small.embed(soxr.resample(x, 44_100, RATE, quality="HQ"))
    assert np.array_equal(small.embed(x, sample_rate=44_100), expected)
    path = tmp_path / "clip.wav"
    soundfile.write(path, x, 44_100, subtype="FLOAT")
    # Resampled block by block.
    np.testing.assert_allclose(small.embed(path), expected, rtol=0, atol=1e-5)


def test_torch_tensors_are_arrays(small):
    import torch

    x = signals.tone(0.5, RATE)
    assert np.array_equal(small.embed(torch.from_numpy(x)), small.embed(x))
    both = small.embed(torch.from_numpy(np.stack([x, x])))
    assert np.array_equal(both[1], small.embed(x))


@pytest.mark.parametrize(
    ("layers", "seconds", "length"),
    [((3, 6), 6.0, 20), pytest.param((1,), 60.0, 100, marks=pytest.mark.slow)],
)
def test_chunks_give_what_one_pass_gives(deep, layers, seconds, length):
    kinds = list(signals.SIGNALS.values())[:7]
    x = np.concatenate([kind(length / 7, RATE, 3) for kind in kinds])[:-1234]
    frames = fe.Engine(deep(*layers, seconds=max(60.0, length))).embed_frames(x)
    expected = frames.mean(axis=1, dtype=np.float64) + frames.max(axis=1)
    chunked = fe.Engine(deep(*layers, seconds=seconds))
    runs = chunked.stats.runs
    for got, value in ((chunked.embed(x), expected), (chunked.embed_frames(x), frames)):
        worst = np.abs(got - value).max() / np.abs(value).max()
        print(f"{list(layers)} in chunks of {seconds} s: {worst:.1e} of the largest value")
        assert worst <= 1e-5
    assert chunked.stats.runs - runs >= 2 * length / seconds


def test_chunked_layer_outputs_are_joined(deep):
    x = signals.speech_like(13.3, RATE)
    whole = fe.Engine(deep(5, 2)).layer_outputs(x)
    chunked = fe.Engine(deep(5, 2, seconds=6.0)).layer_outputs(x)
    for name, expected in whole.items():
        assert chunked[name].shape == expected.shape
        assert np.abs(chunked[name] - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_chunk_without_its_margin_is_seen(deep, tmp_path):
    """The planted fault of the two tests above: half the margin."""
    path = tmp_path / "narrow.onnx"
    change_spec(deep(3, 6), path, chunk_margin=32, max_frames=601)
    x = signals.speech_like(13.3, RATE)
    expected = fe.Engine(deep(3, 6)).embed(x)
    assert np.abs(fe.Engine(path).embed(x) - expected).max() > 1e-5 * np.abs(expected).max()


@pytest.mark.slow
def test_an_hour_needs_no_more_memory_than_its_samples_and_a_chunk(artifacts):
    """Peak resident memory of a fresh process; the first block has the largest outputs."""
    program = r"""
import re, sys
from pathlib import Path
import numpy as np
import fusion_engine as fe
engine = fe.Engine(sys.argv[1])
minutes = int(sys.argv[2])
rng = np.random.default_rng(0)
x = np.empty(minutes * 60 * 16_000, np.int16)
for block in np.array_split(x, 60):
    block[:] = rng.integers(-3000, 3000, len(block), np.int16)
assert np.isfinite(engine.embed(x)).all()
# Not ru_maxrss, which a process inherits from the one that started it.
print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""

    def peak(minutes):
        command = [sys.executable, "-c", program, str(artifacts(1)), str(minutes)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    short, hour = peak(1), peak(60)
    samples = 59 * 60 * 16_000 * 2
    print(f"peak memory: 1 minute {short / 1e9:.2f} GB, 60 minutes {hour / 1e9:.2f} GB")
    # A chunk in the middle has a margin on both sides, which the single pass of a minute has not.
    assert hour <= short + samples + 0.2e9


@pytest.mark.parametrize(
    ("audio", "error", "message"),
    [
        (np.zeros(0, np.float32), fe.AudioError, "no samples|zero samples|empty"),
        (np.zeros((2, 3, 4), np.float32), fe.AudioError, r"\[2, 3, 4\]|3-D"),
        (np.zeros((RATE, 2), np.float32), fe.AudioError, "channels"),
        (np.zeros(RATE, np.complex64), TypeError, "complex64"),
        (np.zeros(RATE, np.int32), TypeError, "int32"),
        (np.full(RATE, np.nan, np.float32), fe.AudioError, "sample 0|index 0|nan"),
        ([0.1, 0.2], TypeError, "clip 0 is float"),
        (3.0, TypeError, "audio is float"),
        (None, TypeError, "audio is NoneType"),
        ("no_such.wav", fe.AudioError, r"no_such\.wav"),
        ([np.zeros((2, RATE), np.float32)], fe.AudioError, "clip"),
    ],
)
def test_bad_audio(small, audio, error, message):
    with pytest.raises(error, match=message):
        small.embed(audio)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_bad_sample_is_named(small, value):
    good, bad = np.zeros(RATE, np.float32), np.zeros(RATE, np.float32)
    bad[1234] = value
    with pytest.raises(fe.AudioError, match=r"clip 1.*1234"):
        small.embed([good, bad])


def test_arguments(small, tmp_path):
    x = np.zeros(RATE, np.float32)
    with pytest.raises(ValueError, match="head is 'median'"):
        small.embed(x, head="median")
    with pytest.raises(ValueError, match="sample_rate= is for arrays"):
        small.embed(tmp_path / "x.wav", sample_rate=RATE)
    with pytest.raises(fe.AudioError, match="got 2 clips, expected one"):
        small.embed_frames(np.stack([x, x]))


def test_what_a_clip_vector_cannot_do(deep):
    engine = fe.Engine(deep(7, seconds=5.0))
    x = signals.tone(5.0, RATE)
    assert engine.frame_rate is None
    with pytest.raises(fe.ArtifactError, match="no frame features: layer_7"):
        engine.embed_frames(x)
    with pytest.raises(ValueError, match="no time axis"):
        engine.embed(x, head="max")
    with pytest.raises(fe.AudioError, match=r"clip: .*at most 501.*layer_7 pools"):
        engine.embed(np.tile(x, 2))
    with pytest.raises(fe.ArtifactError, match="no frame features: layer_7"):
        fe.Engine(deep(7, 1)).embed_frames(x)


def test_values_that_overflow_are_an_error(artifacts, tmp_path):
    model = onnx.load(artifacts(2))
    scale = next(i for i in model.graph.initializer if list(i.dims) == [128])
    scale.CopyFrom(onnx.numpy_helper.from_array(np.full(128, 3e38, np.float32), scale.name))
    bias = [n for n in model.graph.node if n.op_type == "Conv"][-1]
    bias.input[2] = scale.name
    weights = next(i for i in model.graph.initializer if i.name == bias.input[1])
    values = np.full(list(weights.dims), 1e38, np.float32)
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    path = tmp_path / "overflow.onnx"
    onnx.save(model, path)
    x = signals.tone(0.5, RATE)
    engine = fe.Engine(path)
    with pytest.raises(fe.NumericalError, match=r"clip 0: layer_2 .*not finite"):
        engine.embed([x, x])
    with pytest.raises(fe.NumericalError, match=r"clip: layer_2"):
        engine.embed_frames(x)


def test_bad_artifacts(artifacts, tmp_path):
    good = artifacts(2).read_bytes()
    foreign, text = tmp_path / "foreign.onnx", tmp_path / "text.onnx"
    text.write_text("hello")
    (tmp_path / "cut.onnx").write_bytes(good[: len(good) // 2])
    (tmp_path / "other.bin").write_bytes(good)
    model = onnx.load(artifacts(2))
    del model.metadata_props[:]
    onnx.save(model, foreign)
    for name, message in (
        ("missing.onnx", "no such file"),
        ("", "a folder"),
        ("other.bin", "unknown kind '.bin'"),
        ("cut.onnx", "truncated"),
        ("text.onnx", "no ONNX file"),
        ("foreign.onnx", "was not written by fusion_engine"),
    ):
        with pytest.raises(fe.ArtifactError, match=message):
            fe.Engine(tmp_path / name)


def test_a_spec_that_does_not_fit_the_graph(artifacts, tmp_path):
    model = onnx.load(artifacts(2))
    model.graph.output[0].name = "layer_5"
    model.graph.node[-1].output[0] = "layer_5"
    onnx.save(model, tmp_path / "renamed.onnx")
    with pytest.raises(fe.ArtifactError, match=r"outputs \['layer_5'\].*its spec says"):
        fe.Engine(tmp_path / "renamed.onnx")


@pytest.mark.parametrize("version", [2, 99])
def test_a_spec_of_the_future(artifacts, tmp_path, version):
    model = onnx.load(artifacts(2))
    entry = model.metadata_props[0]
    entry.value = entry.value.replace('"format_version":1', f'"format_version":{version}')
    onnx.save(model, tmp_path / "future.onnx")
    with pytest.raises(fe.ArtifactError, match=f"format version {version}"):
        fe.Engine(tmp_path / "future.onnx")


def test_devices(artifacts, caplog):
    path = artifacts(2)
    with pytest.raises(fe.BackendError, match=r"device 'cuda'.*device='cpu'"):
        fe.Engine(path, device="cuda")
    for wrong in ("gpu", "cuda:x", "cuda:-1", ""):
        with pytest.raises(ValueError, match="expected 'auto', 'cpu', 'cuda'"):
            fe.Engine(path, device=wrong)
    with pytest.raises(ValueError, match="backend is 'tvm'"):
        fe.Engine(path, backend="tvm")
    with pytest.raises(ValueError, match="threads is 0"):
        fe.Engine(path, threads=0)
    with pytest.raises(ValueError, match="does not normalise its log-mel"):
        fe.Engine(path, normalization=(0.0, 1.0))
    with caplog.at_level(logging.INFO, logger="fusion_engine"):
        fe.Engine(path)
    assert ["device auto: cpu" in record.message for record in caplog.records].count(True) == 1


def test_a_typed_graph_is_not_taken_for_half_precision(artifacts, tmp_path, caplog):
    """FP16 runs in FP32, and says so; BF16 does not run; the emulation rounds as it should."""
    model = onnx.load(artifacts(2))
    for name, graph in (
        ("fp16", typed_model(model, "fp16")),
        ("bf16", typed_model(model, "bf16")),
        ("emulated", emulated_model(typed_model(model, "fp16"))),
    ):
        onnx.save(graph, tmp_path / f"{name}.onnx")
    fe.Engine(tmp_path / "emulated.onnx", device="cpu")
    assert not caplog.records
    fe.Engine(tmp_path / "fp16.onnx", device="cpu")
    assert "fp16.onnx is a graph in FP16, which the CPU computes in FP32" in caplog.text
    with pytest.raises(fe.BackendError, match="run the FP32 artifact that it was made from"):
        fe.Engine(tmp_path / "bf16.onnx", device="cpu")


def test_threads_and_warmup_change_no_bit(artifacts):
    x = signals.speech_like(1.0, RATE)
    one = fe.Engine(artifacts(2), threads=1)
    warm = fe.Engine(artifacts(2), warmup=[(1, 0.5), (2, 1.0)])
    assert warm.stats.clips == 3
    assert np.array_equal(one.embed(x), warm.embed(x))


def test_stats(artifacts):
    engine = fe.Engine(artifacts(2))
    assert engine.stats.clips == 0
    engine.embed([np.zeros(RATE, np.float32), np.zeros(2 * RATE, np.float32)])
    stats = engine.stats
    assert (stats.clips, stats.audio_seconds, stats.runs) == (2, 3.0, 2)
    assert min(stats.frontend_seconds, stats.backbone_seconds, stats.fusion_seconds) > 0


def test_stats_that_nobody_asks_for_take_no_memory(small, monkeypatch):
    monkeypatch.setattr("fusion_engine.engine.stats.Meter.MOST", 10)
    x = signals.tone(0.5, RATE)
    before = small.stats.runs
    for call in (small.embed, small.embed_frames, small.layer_outputs):
        for _ in range(8):
            call(x)
            assert len(small._meter.amounts) <= 20
    assert small.stats.runs - before == 24


def test_a_stream_that_ends_early_gives_no_embedding(small, monkeypatch):
    """The rows that were not written would be whatever their memory held."""
    clips_of = dispatch.clips_of
    x = np.zeros(RATE, np.float32)

    def short(items, *arguments, **options):
        return clips_of(items[:-1], *arguments, **options)

    monkeypatch.setattr(dispatch, "clips_of", short)
    with pytest.raises(fe.BackendError, match="2 of 3 clips were read"):
        small.embed([x, x, x])
    with pytest.raises(fe.BackendError, match="0 of 1 clips were read"):
        small.embed(x)


def test_samples_start_no_decoder(small, monkeypatch):
    """Opening one costs more than all else that the host does for a clip."""

    def fail(*args, **options):
        raise AssertionError

    monkeypatch.setattr("fusion_engine.engine.clips.decode_ahead", fail)
    x = signals.tone(0.5, RATE)
    for audio in (x, x[None], [x, x]):
        assert np.array_equal(np.atleast_2d(small.embed(audio))[-1], small.embed(x))
    (event,) = small.embed_stream([("a", x)])
    assert np.array_equal(event.result, small.embed(x))


def test_decoding_that_ends_early_gives_no_embedding(small, tmp_path, monkeypatch):
    path = tmp_path / "clip.wav"
    soundfile.write(path, signals.tone(0.5, RATE), RATE)

    def closed(*args, **options):
        files = decode_ahead(*args, **options)
        files.close()
        return files

    monkeypatch.setattr("fusion_engine.engine.clips.decode_ahead", closed)
    for call in (small.embed, small.embed_frames, small.layer_outputs):
        with pytest.raises(fe.BackendError, match="the next file was not read"):
            call(path)
    with pytest.raises(fe.BackendError, match="the next file was not read"):
        small.embed([path, path])


@pytest.mark.parametrize("name", ["chunked", "dropped", "padded"])
def test_a_clip_of_any_module_in_a_batch_is_the_clip_alone(tmp_path, name):
    engine = fe.Engine(write_artifact(tmp_path / "any.onnx", SPECS[name]), device="cpu")
    batch = np.stack([signals.speech_like(1.3, RATE, seed) for seed in range(5)])
    alone = np.stack([engine.embed(clip) for clip in batch])
    assert np.abs(engine.embed(batch) - alone).max() <= 1e-6 * np.abs(alone).max()


def test_repr(deep):
    engine = fe.Engine(deep(3, 6), device="cpu")
    assert repr(engine) == (
        f"<Engine '{deep(3, 6)}': cnn14_16k, layers 3, 6, D = 6144, cpu, {engine.backend}>"
    )
    engine.close()
    assert repr(engine).endswith("D = 6144, closed>")
