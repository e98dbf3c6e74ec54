"""Artifacts as one plain graph from samples to embedding, run without this package."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from onnx.reference import ReferenceEvaluator
from tritonclient.grpc import model_config_pb2

import fusion_engine as fe
from fusion_engine import ArtifactError, ExportError
from fusion_engine.artifact import file_sha256, read_report, read_spec, takes_samples
from fusion_engine.engine.tensorrt import import_tensorrt
from fusion_engine.export import export_waveform, files, waveform_graph
from fusion_engine.frontend import FRONTENDS
from fusion_engine.parity import Signal

from .. import signals
from ..engine.cuda.artifacts import CHUNKED, DROPPED, PADDED, RAGGED, SPECS, write_artifact
from ..exports import change_spec, with_layers
from ..frontend import reference

RATE = 16_000
# Of the largest value: one sum of FP32 after another. Noise has no bin far below its frame's peak.
LOUD = 5e-6
# Shorter than a window and than any model's minimum, one sample around the steps of each framing,
# whole segments and one sample less, ragged ends, and 6 s, the most of CHUNKED.
LENGTHS = (1, 399, 401, 4_959, 4_961, 15_599, 15_600, 15_920, 30_959, 30_960, 47_013, 95_999)


@pytest.fixture(scope="module", params=SPECS)
def small(request, tmp_path_factory):
    """An artifact with each way of cutting clips, and its waveform graph."""
    folder = tmp_path_factory.mktemp("waveform")
    source = write_artifact(folder / "small.onnx", SPECS[request.param])
    return source, export_waveform(source, folder / "small.waveform.onnx").path


def noise(length, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, length).astype(np.float32)


def plain(path):
    """What any ONNX Runtime does with it."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clips: session.run(["embedding"], {"samples": clips})[0]


def error(got, want):
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


def test_any_length(small):
    source, path = small
    engine, run = fe.Engine(source, device="cpu"), plain(path)
    for length in LENGTHS:
        samples = noise(length)
        assert error(run(samples[None])[0], engine.embed(samples)) < LOUD, length


def test_a_batch(small):
    source, path = small
    clips = np.stack([noise(40_123, seed) for seed in range(3)])
    assert error(plain(path)(clips), fe.Engine(source, device="cpu").embed(clips)) < LOUD


@pytest.mark.parametrize(
    ("kind", "bound"),
    # Of a sweep and a tone most bins lie far below the peak, which is what FP32 rounds.
    [("silence", 5e-7), ("square", LOUD), ("clicks", LOUD), ("chirp", 5e-4), ("tone", 1e-4)],
)
def test_hard_signals(small, kind, bound):
    source, path = small
    samples = Signal(kind=kind, seconds=2.7183).samples(RATE)
    samples *= np.float32(1 / max(1e-9, np.abs(samples).max()))
    want = fe.Engine(source, device="cpu").embed(samples)
    assert error(plain(path)(samples[None])[0], want) < bound


def test_another_implementation_of_the_operators(small):
    """ONNX's own, in NumPy."""
    source, path = small
    clips = np.stack([noise(21_111, seed) for seed in range(2)])
    (got,) = ReferenceEvaluator(str(path)).run(["embedding"], {"samples": clips})
    assert error(got, fe.Engine(source, device="cpu").embed(clips)) < LOUD


def test_without_this_package(small, tmp_path):
    source, path = small
    samples = noise(23_456)
    np.save(tmp_path / "samples.npy", samples)
    code = (
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "samples = numpy.load('samples.npy')[None]\n"
        "numpy.save('embedding.npy', session.run(None, {'samples': samples})[0])\n"
        "assert not [name for name in sys.modules if 'fusion' in name]\n"
    )
    args = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(args, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    want = fe.Engine(source, device="cpu").embed(samples)
    assert error(np.load(tmp_path / "embedding.npy")[0], want) < LOUD


def test_what_the_file_is(small):
    source, path = small
    onnx.checker.check_model(path, full_check=True)
    model, spec = onnx.load(path), read_spec(path)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.version for entry in model.opset_import] == [18]
    (samples,), (embedding,) = model.graph.input, model.graph.output
    shapes = ["batch", "samples"], ["batch", spec.embedding_dim]
    for value, sizes in zip((samples, embedding), shapes, strict=True):
        shape = value.type.tensor_type
        assert shape.elem_type == onnx.TensorProto.FLOAT
        assert [size.dim_param or size.dim_value for size in shape.shape.dim] == sizes
    assert takes_samples(path)
    assert not takes_samples(source)
    # Embeddings of both belong in one table. It makes no chunks.
    assert spec == replace(read_spec(source), chunk_margin=None)
    assert spec.space == read_spec(source).space


def test_the_report(tmp_path):
    source = write_artifact(tmp_path / "small.onnx", CHUNKED)
    steps = []
    report = export_waveform(source, tmp_path / "out.onnx", progress=steps.append)
    assert steps == ["adding frontend and fusion", "checking against the engine"]
    assert report.max_error.keys() == {"embedding"}
    assert report.max_error["embedding"] < LOUD
    kept = read_report(report.path)
    assert kept["sha256"] == file_sha256(report.path)
    assert kept["max_error"] == report.max_error
    assert len(list(tmp_path.iterdir())) == 3


def test_weights_in_a_second_file(tmp_path, monkeypatch):
    source = write_artifact(tmp_path / "small.onnx", CHUNKED)
    monkeypatch.setattr(files, "MOST_BYTES", 10_000)
    report = export_waveform(source, tmp_path / "out.onnx")
    assert report.external_bytes > 1_000_000 > report.bytes
    assert {path.name for path in tmp_path.iterdir()} == {
        "small.onnx",
        "out.onnx",
        "out.onnx.data",
        "out.onnx.json",
    }
    samples = noise(9_000)
    assert error(plain(report.path)(samples[None])[0], fe.Engine(source).embed(samples)) < LOUD


@pytest.mark.parametrize("head", ["mean", "max"])
@pytest.mark.parametrize("spec", [CHUNKED, DROPPED], ids=lambda spec: spec.model)
def test_other_heads(tmp_path, spec, head):
    source = write_artifact(tmp_path / "small.onnx", replace(spec, head=head))
    report = export_waveform(source, tmp_path / "out.onnx")
    samples = noise(33_333)
    assert error(plain(report.path)(samples[None])[0], fe.Engine(source).embed(samples)) < LOUD


@pytest.mark.parametrize(
    "change",
    [
        {"window": "hann_symmetric"},
        {"spectrum": "magnitude"},
        {"log": "ln_add", "log_offset": 0.01},
        {"win_length": 300},
        {"mean": -30.0, "std": 12.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_frontends(tmp_path, change):
    spec = replace(CHUNKED, frontend=replace(CHUNKED.frontend, preset="own", **change))
    source = write_artifact(tmp_path / "small.onnx", spec)
    report = export_waveform(source, tmp_path / "out.onnx")
    samples = noise(22_222)
    assert error(plain(report.path)(samples[None])[0], fe.Engine(source).embed(samples)) < LOUD


def wrong_coefficient(kernel):
    kernel[37, 200] = 0.0
    return kernel


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("dft_kernel", wrong_coefficient),
        ("dft_kernel", lambda kernel: np.roll(kernel, 1, axis=1)),
        ("filter_bank", lambda bank: np.roll(bank, 1, axis=1)),
    ],
    ids=["coefficient", "framing", "mel"],
)
@pytest.mark.parametrize("name", ["chunked", "dropped"])
def test_a_wrong_graph_is_not_left(tmp_path, monkeypatch, name, what, fault):
    source = write_artifact(tmp_path / "small.onnx", SPECS[name])
    right = getattr(waveform_graph, what)
    monkeypatch.setattr(waveform_graph, what, lambda spec: fault(right(spec)))
    with pytest.raises(ExportError, match=r"off by \d.*expected at most 2e-05"):
        export_waveform(source, tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == [source]


def test_an_infinite_embedding_is_not_left(tmp_path):
    source = write_artifact(tmp_path / "small.onnx", CHUNKED, bias=np.inf)
    with pytest.raises(ExportError, match="off by nan"):
        export_waveform(source, tmp_path / "out.onnx")


def test_what_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write_artifact(Path("small.onnx"), CHUNKED)
    masked = write_artifact(Path("ragged.onnx"), RAGGED)
    half = change_spec(source, Path("half.onnx"), precision="fp16")
    done = export_waveform(source, "done.onnx").path
    for path in (masked, half, done):
        with pytest.raises(ExportError, match=rf"{path}: expected an .onnx in FP32 that takes log"):
            export_waveform(path, "out.onnx")
    with pytest.raises(ExportError, match=r"small.onnx is the artifact itself"):
        export_waveform(source, "../" + tmp_path.name + "/small.onnx")
    with pytest.raises(ExportError, match=r"out.plan: expected a name that ends in .onnx"):
        export_waveform(source, "out.plan")
    with pytest.raises(ArtifactError, match=r"missing.onnx: no such file"):
        export_waveform("missing.onnx", "out.onnx")
    model = onnx.load(source)
    model.opset_import[0].version = 17
    onnx.save(model, "old.onnx")
    with pytest.raises(ExportError, match="of opset 17, expected 18"):
        export_waveform("old.onnx", "out.onnx")
    model = onnx.load(source)
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "fusion/c1"
    onnx.save(model, "taken.onnx")
    with pytest.raises(ExportError, match="values of the graph are called fusion/c1"):
        export_waveform("taken.onnx", "out.onnx")
    assert not Path("out.onnx").exists()


def decibels(spec):
    """What one of the log-mel's own unit is."""
    return 1.0 if spec.log == "db" else 10 / np.log(10) * 2 * (spec.std or 0.5)


@pytest.mark.parametrize("signal", ["chirp", "tone", "noise", "speech_like"])
@pytest.mark.parametrize("name", FRONTENDS)
def test_the_log_mel_against_fp64(tmp_path, name, signal):
    """As docs/waveform.md says: exact where a bin can be heard, and less so far below the peak."""
    spec = FRONTENDS[name]
    spec_of_graph = replace(PADDED if name == "ast" else CHUNKED, frontend=spec)
    model = onnx.load(write_artifact(tmp_path / "small.onnx", spec_of_graph))
    waveform_graph.add_waveform(model, spec_of_graph)
    model.graph.output.append(onnx.ValueInfoProto(name="log_mel"))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    samples = signals.SIGNALS[signal](2.0, spec.sample_rate)
    if name.startswith("panns"):
        want = reference.panns(samples, spec)
    else:
        want = getattr(reference, name)(samples)
    (got,) = session.run(["log_mel"], {"samples": samples[None]})
    got, want = (x.reshape(-1, spec.n_mels) * decibels(spec) for x in (got, want))
    difference = np.abs(got[: len(want)] - want)
    heard = want > want.max(axis=1, keepdims=True) - 50
    assert difference.max() < (1e-4 if signal == "noise" else 0.25)
    assert difference[heard].max() < 0.02


@pytest.mark.rtx
def test_tensorrt_builds_it(small):
    source, path = small
    library = import_tensorrt("tensorrt_rtx")
    trt = library.module
    builder = trt.Builder(library.logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, library.logger)
    assert parser.parse_from_file(str(path)), parser.get_error(0)
    profile = builder.create_optimization_profile()
    profile.set_shape("samples", (1, 8_000), (1, 32_000), (4, 96_000))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
    assert list(network.get_output(0).shape) == [-1, read_spec(source).embedding_dim]


def test_triton_s_configuration_in_the_documents():
    """As the server reads it: a field that it does not know is an error."""
    page = (Path(__file__).parents[2] / "docs" / "waveform.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```\n(backend: .*?)^```", page, re.MULTILINE | re.DOTALL)
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert [value.name for value in (*config.input, *config.output)] == ["samples", "embedding"]
    assert list(config.output[0].dims) == [6144]


# Whole models. The last column is what a sweep may be off by, see docs/waveform.md.
def check_model(source, tmp_path, chirp):
    path = export_waveform(source, tmp_path / "waveform.onnx").path
    engine, run = fe.Engine(source, device="cpu"), plain(path)
    try:
        for length in (1, 15_999, 30_123):
            assert error(run(noise(length)[None])[0], engine.embed(noise(length))) < LOUD
        samples = Signal(kind="chirp", seconds=1.5).samples(RATE)
        assert error(run(samples[None])[0], engine.embed(samples)) < chirp
    finally:
        path.unlink()  # as large as the model, and pytest keeps the folders of the last runs


def test_early_cnn14(two_layers, tmp_path):
    check_model(two_layers, tmp_path, 5e-4)


@pytest.mark.slow
def test_cnn14_fusion(cnn14_fusion, tmp_path):
    check_model(cnn14_fusion.path, tmp_path, 5e-4)


def test_vggish(vggish_all, tmp_path):
    source = with_layers(vggish_all.path, tmp_path / "vggish.onnx", [10, 15])
    check_model(source, tmp_path, 1e-4)


@pytest.mark.slow
def test_vggish_of_vectors(vggish_all, tmp_path):
    source = with_layers(vggish_all.path, tmp_path / "vggish.onnx", [22, 2])
    check_model(source, tmp_path, 1e-4)
    source.unlink()


def test_ast(ast_second, tmp_path):
    source = with_layers(ast_second.path, tmp_path / "ast.onnx", [3, 1])
    check_model(source, tmp_path, 2e-5)
