"""Waveform artifacts behind ``Engine``: the calls for embeddings, and a word on the others."""

import logging
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
from onnx import helper

import fusion_engine as fe
from fusion_engine import ArtifactError, AudioError, BackendError, NumericalError
from fusion_engine.engine.tensorrt import build
from fusion_engine.export import export_waveform
from fusion_engine.parity import Signal
from fusion_engine.spec import METADATA_KEY

from .cuda.artifacts import CHUNKED, SPECS, write_artifact

RATE = 16_000
LOUD = 5e-6


@pytest.fixture(scope="module", params=SPECS)
def engines(request, tmp_path_factory):
    """Of an artifact, and of its waveform graph; the path of that."""
    folder = tmp_path_factory.mktemp("waveform")
    source = write_artifact(folder / "small.onnx", SPECS[request.param])
    path = export_waveform(source, folder / "small.waveform.onnx").path
    with fe.Engine(source, device="cpu") as exact, fe.Engine(path) as engine:
        yield exact, engine, path


@pytest.fixture(scope="module")
def chunked(tmp_path_factory):
    source = write_artifact(tmp_path_factory.mktemp("waveform") / "small.onnx", CHUNKED)
    return export_waveform(source, source.with_suffix(".waveform.onnx")).path


def noise(length, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, length).astype(np.float32)


def error(got, want):
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


def test_every_kind_of_audio(engines, tmp_path):
    exact, engine, _ = engines
    assert (engine.device, engine.sample_rate) == ("cpu", exact.sample_rate)
    assert engine.embedding_dim == exact.embedding_dim
    assert "onnxruntime" in engine.backend
    files = [tmp_path / "a.wav", tmp_path / "b.wav"]
    soundfile.write(files[0], noise(50_000), RATE)
    soundfile.write(files[1], noise(70_000), 44_100)
    for audio in (
        noise(12_345),
        np.stack([noise(22_222, 1), noise(22_222, 2)]),
        # Equal lengths, equally many frames, and others.
        [noise(length, length) for length in (20_000, 100, 20_001, 20_000, 41_000, 1)],
        (noise(30_000) * 32_767).astype(np.int16),
        noise(9_999).astype(np.float64),
        files[0],
        files,
    ):
        assert error(engine.embed(audio), exact.embed(audio)) < LOUD
    samples = noise(44_100)
    want = exact.embed(samples, sample_rate=44_100)
    assert error(engine.embed(samples, sample_rate=44_100), want) < LOUD


def test_it_is_the_graph_of_everyone(engines):
    """As another program runs it, whatever a clip is embedded beside."""
    _, engine, path = engines
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    clips = [noise(length, length) for length in (20_000, 16_001, 20_000)]
    for clip, embedding in zip(clips, engine.embed(clips), strict=True):
        (want,) = session.run(None, {"samples": clip[None]})
        assert error(embedding, want[0]) < 1e-6


def test_windows(engines):
    exact, engine, _ = engines
    items = [("a", noise(100_000)), ("b", noise(30_000))]
    pairs = zip(
        engine.embed_stream(items, window=1.0, hop=0.5),
        exact.embed_stream(items, window=1.0, hop=0.5),
        strict=True,
    )
    for got, want in pairs:
        assert (got.key, got.start, got.end) == (want.key, want.start, want.end)
        assert error(got.result, want.result) < LOUD


def test_clips_that_one_run_does_not_take(engines):
    """6 s of CHUNKED, 60 s of a model that takes segments."""
    exact, engine, _ = engines
    most = 96_000 if exact.spec.segment is None else 60 * RATE
    near = engine.embed(noise(most - 2 * RATE))
    assert error(near, exact.embed(noise(most - 2 * RATE))) < LOUD
    refused = r"longer than \d+\.\d s, the most .* without --waveform"
    with pytest.raises(AudioError, match=f"clip 1: {refused}"):
        engine.embed([noise(100), noise(most + RATE)])
    embedded = list(engine.embed_stream([("long", noise(2 * most)), ("short", noise(100))]))
    assert [item.key for item in embedded] == ["long", "short"]
    assert isinstance(embedded[0].result, AudioError)
    assert embedded[0].result.kind == "longer than the artifact takes"
    assert embedded[1].result.shape == (engine.embedding_dim,)


def test_what_it_does_not_give(engines):
    exact, engine, path = engines
    assert engine.frame_rate is None
    for call in engine.embed_frames, engine.layer_outputs:
        with pytest.raises(ArtifactError, match=rf"{path}: .* embeddings .* without --waveform"):
            call(noise(20_000))
    if exact.spec.frames_per_step is None:
        return
    assert np.array_equal(engine.embed(noise(20_000), head="mean_max"), engine.embed(noise(20_000)))
    with pytest.raises(ValueError, match=r"head is 'max', .* its own: expected .*'mean_max'"):
        engine.embed(noise(20_000), head="max")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"device": "cuda"}, BackendError, r"runs on the CPU here.*device='cuda'.*--waveform"),
        ({"backend": "tensorrt"}, BackendError, r"runs on the CPU here.*backend='tensorrt'"),
        ({"normalization": (0.0, 1.0)}, ValueError, r"normalization is .*its own.*leave it out"),
    ],
)
def test_options_that_do_not_fit(chunked, options, kind, message):
    with pytest.raises(kind, match=message):
        fe.Engine(chunked, **options)


def test_auto_says_what_it_chose(chunked, caplog):
    with caplog.at_level(logging.INFO, "fusion_engine"), fe.Engine(chunked) as engine:
        assert engine.device == "cpu"
    assert f"device auto: cpu, since {chunked} is a waveform artifact" in caplog.text


def test_no_plan_is_built_of_it(chunked, tmp_path):
    with pytest.raises(ArtifactError, match=r"a plan is built from log-mel on.*without --waveform"):
        build(chunked, tmp_path / "out.plan")
    assert not list(tmp_path.iterdir())


def test_bad_samples(chunked):
    samples = noise(20_000)
    samples[777] = np.nan
    with fe.Engine(chunked) as engine, pytest.raises(AudioError, match="777"):
        engine.embed(samples)


def test_weights_that_overflow(tmp_path):
    source = write_artifact(tmp_path / "small.onnx", CHUNKED)
    path = export_waveform(source, tmp_path / "waveform.onnx").path
    model = onnx.load(path)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "b1")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(12, 3e38, np.float32), "b1"))
    onnx.save(model, tmp_path / "loud.onnx")
    message = "clip: its layer outputs are so large"
    with fe.Engine(tmp_path / "loud.onnx") as engine, pytest.raises(NumericalError, match=message):
        engine.embed([noise(20_000)])


def test_stats(chunked):
    with fe.Engine(chunked) as engine:
        engine.embed([noise(20_000), noise(20_000), noise(20_001)])
        stats = engine.stats
    assert (stats.clips, stats.runs) == (3, 2)
    assert stats.backbone_seconds > 0
    assert stats.audio_seconds == pytest.approx(60_001 / RATE)


def change(model, **fields):
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    entry.value = replace(CHUNKED, **fields).to_json()


@pytest.mark.parametrize("what", ["samples", "embedding", "size", "masked"])
def test_a_graph_that_is_not_what_its_spec_says(chunked, tmp_path, what):
    model = onnx.load(chunked)
    graph, path = model.graph, tmp_path / "edited.onnx"
    if what == "samples":
        graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
        cast = helper.make_node("Cast", ["samples"], ["single"], to=onnx.TensorProto.FLOAT)
        for node in graph.node:
            node.input[:] = ["single" if name == "samples" else name for name in node.input]
        graph.node.insert(0, cast)
        message = r"samples is 'tensor\(double\)', expected tensor\(float\)"
    elif what == "embedding":
        graph.node[-1].output[0] = graph.output[0].name = "features"
        message = r"inputs \['samples'\] and outputs \['features'\], its spec says"
    elif what == "masked":
        change(model, masked=True)
        message = r"inputs \['samples'\] and .* says \['log_mel', 'valid_frames'\]"
    else:
        change(model, layers=CHUNKED.layers[:1], embedding_dim=CHUNKED.layers[0].dim)
        message = r"embedding is \[\?, 1280\], expected \[\?, 512\]"
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match=message):
        fe.Engine(path)


def test_a_size_that_only_a_run_shows(chunked, tmp_path):
    model, path = onnx.load(chunked), tmp_path / "edited.onnx"
    graph = model.graph
    graph.output[0].type.tensor_type.shape.dim[1].dim_param = "D"
    graph.node[-1].output[0] = "features"
    graph.initializer.append(onnx.numpy_helper.from_array(np.arange(1280) > 7, "kept"))
    graph.node.append(helper.make_node("Compress", ["features", "kept"], ["embedding"], axis=1))
    onnx.save(model, path)
    message = r"embedding is \[1, 1272\], expected \[1, 1280\]"
    with fe.Engine(path) as engine, pytest.raises(ArtifactError, match=message):
        engine.embed(noise(20_000))


@pytest.mark.parametrize("kind", ["silence", "square", "clicks"])
def test_hard_signals(engines, kind):
    exact, engine, _ = engines
    samples = Signal(kind=kind, seconds=1.2345).samples(RATE)
    assert error(engine.embed(samples), exact.embed(samples)) < LOUD
