"""``fusion-engine quantize``; what it does is tested with the library."""

import json

import pytest

from fusion_engine.artifact import read_spec
from fusion_engine.parity import Signal
from fusion_engine.quantization import calibration

from .conftest import write_clip

pytestmark = pytest.mark.heavy


@pytest.fixture(autouse=True)
def few_signals(monkeypatch):
    few = (Signal(kind="speech", seconds=0.5),)
    monkeypatch.setattr(calibration, "default_signals", lambda spec: few)


def test_synthetic_signals(cli, two_layers, tmp_path):
    out = tmp_path / "a.onnx"
    result = cli("quantize", two_layers, "-o", out)
    assert (result.status, result.stdout) == (0, "")
    report = json.loads((tmp_path / "a.onnx.json").read_text())
    said = result.stderr
    assert "no --calibration: synthetic signals serve" in said
    assert f"{out}: cnn14_16k, int8, 3 convolutions and products, " in said
    for name in ("layer_1", "layer_2"):
        assert f"{name}: relative L2 error {report['relative_l2'][name]:.4f}" in said
    lost = f"{report['relative_l2']['embedding']:.4f}"
    assert f"embedding: relative L2 error {lost} in the worst clip, accepted 0.1" in said
    worst = ", ".join(f"{name} ({added:.4f})" for name, added in report["products"].items())
    assert f"what adds most: {worst}" in said
    shown = cli("info", out).stdout
    assert "precision       int8, percentile over 1 clip\n" in shown
    lost = f"off by {report['relative_l2']['embedding']:.3f} (relative L2), accepted 0.1"
    assert lost in " ".join(shown.split())


def test_files_and_folders(cli, two_layers, tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("clips/a.wav", "clips/b.wav", "c.wav"):
        write_clip(tmp_path / name)
    out = tmp_path / "a.onnx"
    arguments = ["--calibration", tmp_path / "clips", "--calibration", tmp_path / "c.wav"]
    arguments += ["--method", "minmax", "--precision", "fp8", "--keep", "conv_block1.conv2"]
    result = cli("quantize", two_layers, "-o", out, *arguments, "--force")
    assert result.status == 0
    assert "synthetic" not in result.stderr
    assert "2 convolutions and products, 1 in FP32, " in result.stderr
    spec = read_spec(out)
    assert (spec.precision, spec.quantization.method, spec.quantization.clips) == (
        "fp8",
        "minmax",
        3,
    )


def test_what_is_refused(cli, two_layers, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fusion_engine.quantization.quantizer.bound_of", lambda model, precision: 1e-4
    )
    out = tmp_path / "a.onnx"
    result = cli("quantize", two_layers, "-o", out)
    assert result.status == 1
    assert "0.0001 is accepted" in result.stderr
    assert cli("quantize", two_layers, "-o", out, "--keep", "conv9").status == 2
    assert cli("quantize", two_layers, "-o", two_layers).status == 1
    assert cli("quantize", two_layers, "-o", tmp_path / "a.plan").status == 2
    assert cli("quantize", two_layers, "-o", out, "--calibration", tmp_path / "x.wav").status == 1
    assert not list(tmp_path.iterdir())
    assert cli("quantize", two_layers, "-o", out, "--force").status == 0
