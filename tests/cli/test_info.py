"""``fusion-engine info``."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest

import fusion_engine as fe
from fusion_engine.artifact import read_spec
from fusion_engine.export import export_waveform

from ..engine.cuda.artifacts import CHUNKED, RAGGED, write_artifact
from .test_main import examples


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def test_what_it_says(cli, cnn14_artifact):
    Path("[red] a.onnx").symlink_to(cnn14_artifact)
    result = cli("info", "[red] a.onnx")
    assert (result.status, result.stderr) == (0, "")
    fields = dict(line.split("  ", 1) for line in result.stdout.splitlines() if line[0] != " ")
    fields = {name: value.strip() for name, value in fields.items()}
    size = cnn14_artifact.stat().st_size / 1e6
    spec = read_spec(cnn14_artifact)
    assert fields == {
        "artifact": "[red] a.onnx",
        "model": "cnn14_16k",
        "layers": "1: map [64, T, 32], time pool 16, D 2048",
        "embedding": "2048 × float32, head mean_max",
        "frame features": "3.125 per second",
        "sample rate": "16000 Hz",
        "frontend": "panns_16k: window 512, FFT 512, hop 160, 64 mel bins 50…8000 Hz",
        "input": "32…6001 frames (up to 60.0 s a run; longer clips run in chunks)",
        "precision": "fp32",
        "weights": "random:0",
        "written by": f"fusion_engine {fe.__version__}, format 1",
        "verified": "unknown: no report of this file's export is beside it",
        "size": f"{size:.1f} MB",
    }
    assert f"\n                SHA-256 {spec.weights.sha256}\n" in result.stdout


def test_a_waveform_artifact(cli):
    source = write_artifact(Path("layers.onnx"), CHUNKED)
    error = export_waveform(source, "a.onnx").max_error["embedding"]
    result = cli("info", "a.onnx")
    assert (result.status, result.stderr) == (0, "")
    fields = dict(line.split("  ", 1) for line in result.stdout.splitlines() if line[0] != " ")
    fields = {name: value.strip() for name, value in fields.items()}
    assert fields["waveform"] == (
        "samples [B, N] to embedding [B, 1280] in one graph, the frontend in FP32"
    )
    assert fields["frame features"] == "none (a waveform artifact)"
    assert fields["input"] == "32…600 frames (up to 6.0 s a clip)"
    assert fields["verified"].startswith(
        f"against the artifact that it was made of, on noise, largest error {error:.1e}; opset 18"
    )
    assert fields["certificate"].startswith("none")
    assert "waveform" not in cli("info", "layers.onnx").stdout


@pytest.mark.parametrize("columns", [60, 80])
def test_it_fits(cli, cnn14_artifact, monkeypatch, columns):
    Path("a.onnx").symlink_to(cnn14_artifact)
    monkeypatch.setenv("COLUMNS", "200")
    words = cli("info", "a.onnx").stdout.split()
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = cli("info", "a.onnx").stdout
    assert shown.split() == words
    assert all(len(line) <= columns or "SHA-256" in line for line in shown.splitlines())
    assert f"                SHA-256 {read_spec('a.onnx').weights.sha256}\n" in shown


def with_layers(model, layers):
    """The artifact with a spec of other layers; its graph stays."""
    (entry,) = model.metadata_props
    dims = [layer.get("freq", 1) * layer["channels"] for layer in layers]
    known = {"freq": 1, "time_pool": 1, "module": None}
    changed = {
        "layers": [known | layer for layer in layers],
        "embedding_dim": sum(dims),
        "chunk_margin": None,
    }
    entry.value = json.dumps(json.loads(entry.value) | changed)
    onnx.save(model, "a.onnx")


@pytest.mark.parametrize(
    ("numbers", "modules", "line"),
    [
        (range(1, 13), False, "1…12: vector [768]"),
        ((5, 12), False, "5, 12: vector [768]"),
        ((1, 2, 3, 7, 8), False, "1…3, 7, 8: vector [768]"),
        ((1, 2), True, "1, 2 (blocks.1, blocks.2): vector [768]"),
        (range(1, 5), True, "1…4 (blocks.1 … blocks.4): vector [768]"),
    ],
)
def test_layers_of_one_shape_are_one_line(cli, cnn14_artifact, numbers, modules, line):
    layers = [
        {
            "number": n,
            "kind": "vector",
            "channels": 768,
            "module": f"blocks.{n}" if modules else None,
        }
        for n in numbers
    ]
    with_layers(onnx.load(cnn14_artifact), layers)
    shown = cli("info", "a.onnx").stdout
    assert f"\nlayers          {line}\n" in shown
    assert shown.count("vector [768]") == 1


def quantized(model):
    """One weight as Q/DQ has it: 8 bits and a node that scales them."""
    graph = model.graph
    weight = max(graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(weight)
    scale = np.float32(np.abs(values).max() / 127)
    name = weight.name
    weight.CopyFrom(onnx.numpy_helper.from_array(np.round(values / scale).astype(np.int8), "w8"))
    graph.initializer.append(onnx.numpy_helper.from_array(scale, "w8_scale"))
    graph.node.insert(
        0, onnx.helper.make_node("DequantizeLinear", ["w8", "w8_scale"], [name], name="dequantize")
    )


def halved(model):
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


@pytest.mark.parametrize(
    ("change", "precision"),
    [
        (lambda model: None, "fp32"),
        (quantized, "int8 (Q/DQ), spec says fp32"),
        (halved, "fp16, spec says fp32"),
    ],
)
def test_what_the_graph_computes_in(cli, cnn14_artifact, change, precision):
    model = onnx.load(cnn14_artifact)
    change(model)
    onnx.save(model, "a.onnx")
    assert f"\nprecision       {precision}\n" in cli("info", "a.onnx").stdout


def test_external_data(cli, cnn14_artifact):
    onnx.save(
        onnx.load(cnn14_artifact), "a.onnx", save_as_external_data=True, location="a.onnx.data"
    )
    size = Path("a.onnx.data").stat().st_size
    assert size > 1e5
    shown = cli("info", "a.onnx").stdout
    assert shown.endswith(f" MB\n                external data a.onnx.data: {size / 1e6:.1f} MB\n")
    Path("a.onnx.data").unlink()
    shown = cli("info", "a.onnx").stdout
    assert shown.endswith("external data a.onnx.data: missing, keep it beside the artifact\n")


def test_what_the_export_found(cli, cnn14_artifact):
    shown = cli("info", cnn14_artifact).stdout
    found = r"against PyTorch in FP64, largest error \d\.\de-0[67]; opset \d+, \d+\.\d s"
    assert re.search(rf"^verified +{found}$", shown, re.MULTILINE)


def test_json_is_the_spec(cli, cnn14_artifact):
    result = cli("info", "--json", cnn14_artifact)
    assert (result.status, result.stderr) == (0, "")
    spec = read_spec(cnn14_artifact)
    assert json.loads(result.stdout) == json.loads(json.dumps(asdict(spec)))


@pytest.mark.rtx
def test_the_examples_of_the_help_run(cli, cnn14_artifact):
    Path("cnn14_3_6.onnx").symlink_to(cnn14_artifact)
    assert cli("build", "cnn14_3_6.onnx", "--precision", "fp32").status == 0
    found = examples(cli, "info")
    assert len(found) == 3
    assert all(cli("info", *example).status == 0 for example in found)


def text_file(model, path):
    path.write_text("hello")


def empty(model, path):
    path.write_bytes(b"")


def truncated(model, path):
    content = model.SerializeToString()
    path.write_bytes(content[: len(content) // 2])


def no_spec(model, path):
    del model.metadata_props[:]
    onnx.save(model, path)


def with_spec(**changes):
    def write(model, path):
        (entry,) = model.metadata_props
        entry.value = json.dumps(json.loads(entry.value) | changes)
        onnx.save(model, path)

    return write


def no_json(model, path):
    model.metadata_props[0].value = model.metadata_props[0].value[:-20]
    onnx.save(model, path)


MENDED = "`fusion-engine export`."
BAD = [
    (lambda model, path: None, "no such file."),
    (lambda model, path: path.mkdir(), "a folder, expected an .onnx file"),
    (text_file, "truncated or no ONNX file"),
    (truncated, "truncated or no ONNX file"),
    (empty, "truncated or no ONNX file (empty)"),
    (no_spec, "no 'fusion_engine' entry in its metadata"),
    (no_json, "the spec is damaged (not JSON:"),
    (with_spec(format_version=2), "spec format version 2, this fusion_engine"),
    (with_spec(embedding_dim=7), "embedding_dim is 7, the layers add up to 2048"),
    (with_spec(surprise=1), "unknown fields ['surprise']"),
    (with_spec(max_frames="many"), "spec.max_frames is 'many', expected int"),
]


@pytest.mark.parametrize(
    ("damage", "message"), BAD, ids=[message.split(",")[0] for _, message in BAD]
)
def test_bad_artifacts(cli, cnn14_artifact, damage, message):
    """``info`` explains them, and ``embed`` refuses them as well."""
    damage(onnx.load(cnn14_artifact), Path("bad.onnx"))
    result = cli("info", "bad.onnx")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith("error: bad.onnx: ")
    assert message in result.stderr
    assert MENDED in result.stderr or "folder" in message or "JSON" in message
    assert result.stderr.count("\n") == 1
    Path("a.wav").touch()
    result = cli("embed", "bad.onnx", "a.wav", "-o", "out.csv")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith("error: bad.onnx: ")
    assert not Path("out.csv").exists()


def test_another_kind_of_file(cli):
    Path("model.pth").write_bytes(b"")
    assert cli("info", "model.pth").stderr == (
        "error: model.pth: unknown kind '.pth', expected .onnx or .plan\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(cli):
    Path("a.onnx").touch(mode=0o000)
    assert cli("info", "a.onnx").stderr == "error: a.onnx: Permission denied\n"


def test_a_masked_artifact_says_so(cli, tmp_path):
    result = cli("info", write_artifact(tmp_path / "ragged.onnx", RAGGED))
    assert "clips of different lengths share a batch (valid_frames)" in result.stdout
