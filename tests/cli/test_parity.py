import json
import os
from pathlib import Path

import pytest

from fusion_engine.export import export_waveform
from fusion_engine.parity import Signal, subject
from fusion_engine.spec import Spec

from .conftest import command, on_a_terminal, write_clip

pytestmark = pytest.mark.heavy

SHORT = (Signal(kind="tone", seconds=0.5),)


@pytest.fixture(autouse=True)
def _one_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole set takes a while, and is tested with the library."""

    def short(spec: Spec, *, least_frames: int) -> tuple[Signal, ...]:
        return SHORT

    monkeypatch.setattr(subject, "default_signals", short)


@pytest.fixture(scope="session")
def copied(cnn14_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact with its report, in a folder of its own."""
    folder = tmp_path_factory.mktemp("certified")
    for name in (cnn14_artifact.name, f"{cnn14_artifact.name}.json"):
        (folder / name).write_bytes((cnn14_artifact.parent / name).read_bytes())
    return folder / cnn14_artifact.name


def test_a_sound_artifact(cli, copied: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    clip, out = write_clip(tmp_path / "clip.wav"), tmp_path / "certificate.json"
    result = cli("parity", copied, "--audio", clip, "-o", out)
    assert result.status == 0
    assert "layers 1, fp32, onnxruntime" in result.stdout
    assert "the same log-mel in both" in result.stdout
    assert "end to end, with the published frontend" in result.stdout
    rows = [line for line in result.stdout.splitlines() if line.strip().endswith(" ok")]
    assert [row.split()[0] for row in rows] == 2 * ["layer_1", "frame_features", "embedding"]
    assert "…" not in result.stdout
    assert result.stdout.rstrip().endswith("parity: passed")
    assert f"certificate: {out}" in result.stderr
    data = json.loads(out.read_text())
    assert data["passed"] is True
    assert [entry["name"] for entry in data["clips"]] == ["tone 0.5 s", os.fspath(clip)]
    # Beside the artifact too, for `info`, and nothing of the report is lost.
    report = json.loads(Path(f"{copied}.json").read_text())
    assert report["parity"] == {"fp32": data}
    assert report["model"] == "cnn14_16k"
    shown = cli("info", copied).stdout
    assert f"certificate     fp32: passed, {data['backend']}, {data['created']}" in shown


def test_a_waveform_artifact(cli, copied: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    path = export_waveform(copied, tmp_path / "waveform.onnx").path
    result = cli("parity", path)
    assert result.status == 0
    rows = [line for line in result.stdout.splitlines() if line.strip().endswith(" ok")]
    assert [row.split()[0] for row in rows] == ["embedding"]
    assert json.loads(Path(f"{path}.json").read_text())["parity"]["fp32"]["passed"] is True
    assert "certificate     fp32: passed" in cli("info", path).stdout
    assert cli("parity", path, "--precision", "fp16").status == 1


def test_emulation_is_kept_beside_it(cli, copied: Path) -> None:
    result = cli("parity", copied, "--precision", "bf16")
    assert result.status == 0
    assert "bf16, emulated with onnxruntime" in result.stdout
    assert "bf16: passed, emulated with onnxruntime" in cli("info", copied).stdout


def test_an_artifact_that_fails(cli, copied: Path, tmp_path: Path) -> None:
    import numpy as np
    import onnx

    model = onnx.load(copied)
    (bias,) = (t for t in model.graph.initializer if t.name == "conv_block1.conv2.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros(64, np.float32), bias.name))
    artifact, out = tmp_path / "bad.onnx", tmp_path / "bad.json"
    onnx.save_model(model, artifact)
    result = cli("parity", artifact, "-o", out)
    assert result.status == 1
    assert result.stdout.count("FAILED") == 6
    assert result.stdout.rstrip().endswith("parity: failed")
    assert json.loads(out.read_text())["passed"] is False
    assert "kept in" not in result.stderr  # it has no report


def test_values_that_are_not_finite(cli, copied: Path, tmp_path: Path) -> None:
    import numpy as np
    import onnx

    model = onnx.load(copied)
    (bias,) = (t for t in model.graph.initializer if t.name == "conv_block1.conv2.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(64, np.inf, np.float32), bias.name))
    artifact, out = tmp_path / "bad.onnx", tmp_path / "bad.json"
    onnx.save_model(model, artifact)
    result = cli("parity", artifact, "-o", out)
    assert result.status == 1
    assert "NaN/Inf" in result.stdout
    assert "layer_1 holds values that are not finite" in result.stdout
    data = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert data["comparisons"][0]["artifact"]["error"] is None


def test_other_weights(cli, copied: Path) -> None:
    result = cli("parity", copied, "--weights", "random:1")
    assert result.status == 1
    assert "weights random:1 are not those of" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "wrong", [["--precision", "fp8"], ["-o", "certificate.txt"], ["--device", "gpu"]]
)
def test_wrong_usage(cli, copied: Path, wrong: list[str]) -> None:
    assert cli("parity", copied, *wrong).status == 2


def test_where_nothing_can_be_written_nothing_is_done(cli, copied: Path, tmp_path: Path) -> None:
    result = cli("parity", copied, "-o", tmp_path / "nowhere" / "certificate.json")
    assert (result.status, result.stdout) == (1, "")
    assert "create the folder first" in result.stderr


def test_progress_goes_to_a_terminal(copied: Path, tmp_path: Path) -> None:
    before = (
        "from fusion_engine.parity import Signal, subject\n"
        "subject.default_signals = lambda spec, least_frames: (Signal(kind='tone', seconds=0.5),)\n"
    )
    status, text = on_a_terminal(command("parity", copied, before=before), columns=100)
    assert status == 0
    assert "reading the weights" in text
    assert "comparing tone 0.5 s" in text
