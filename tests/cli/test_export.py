"""``fusion-engine export``."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import fusion_engine as fe
from fusion_engine.artifact import read_spec, takes_samples

from .conftest import command, on_a_terminal
from .test_main import examples

pytestmark = pytest.mark.heavy

NO_TORCH = "import sys; sys.modules['torch'] = None"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_an_example_of_the_help_on_a_terminal(cli):
    (example,) = (args for args in examples(cli, "export") if "random:0" in args)
    assert shlex.join(example) == "cnn14 --layers 1 -w random:0 --seconds 10 -o test.onnx"
    status, shown = on_a_terminal(command("export", *example))
    assert status == 0
    for step in ("reading weights", "tracing the graph", "checking against PyTorch in FP64"):
        assert f"cnn14: {step} …" in shown
    assert "1/3" in shown  # the bar, while the graph is traced
    summary = "test.onnx: cnn14_16k, layers 1, D = 2048, weights random:0, opset"
    error = r"largest error \d\.\de-0\d of a layer's largest value"
    assert shown.count(summary) == 1
    assert re.search(rf"verified against PyTorch in FP64: {error}", shown)
    spec = read_spec("test.onnx")
    assert spec.max_frames == spec.frontend.frames(10 * spec.frontend.sample_rate)
    assert fe.Engine("test.onnx").embed(np.zeros(16_000, np.float32)).shape == (2048,)
    assert sorted(path.name for path in Path().iterdir()) == ["test.onnx", "test.onnx.json"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["cnn15"], "unknown model 'cnn15': did you mean cnn14 or"),
        (["CNN14"], "did you mean cnn14 or"),
        (["[red]"], "unknown model '[red]': The models are"),
        (["cnn14", "--layers", "3", "8"], "unknown layers [8]; cnn14_16k has layers 1, 2, 3,"),
        (["cnn14", "--layers", "-1"], "unknown layers [-1]; cnn14_16k has layers 1, 2, 3,"),
        (["cnn14", "--layers", "3", "3"], "layers [3, 3] name one twice"),
        (["cnn14", "--seconds", "0.01"], "takes at least 32 (0.31 s)"),
        (["cnn14", "--seconds", "nan"], "expected a finite number"),
        (["cnn14", "-w", "random:x"], "expected random:SEED with a non-negative integer"),
        (["cnn14", "-w", "no.pth"], "no.pth"),
        (["cnn14", "-w", "other.pth"], "weights other.pth for cnn14_16k"),
        (["cnn14", "-w", "text.pth"], "text.pth"),
        (["cnn14", "-w", "pretrained"], "fetch https://zenodo.org/"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_exported_leaves_the_old_file(cli, monkeypatch, args, message):
    monkeypatch.setenv("FUSION_ENGINE_OFFLINE", "1")
    monkeypatch.setenv("FUSION_ENGINE_CACHE", str(Path("cache").absolute()))
    torch.save({"model": {"encoder.weight": torch.zeros(3)}}, "other.pth")
    Path("text.pth").write_text("hello")
    Path("out.onnx").write_text("old")
    before = sorted(Path().iterdir())
    result = cli("export", *args, "-o", "out.onnx")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(Path().iterdir()) == before
    assert Path("out.onnx").read_text() == "old"


def test_a_checkpoint_of_another_model_lists_the_keys(cli):
    torch.save({"model": {"encoder.weight": torch.zeros(3)}}, "other.pth")
    stderr = cli("export", "cnn14", "--layers", "1", "-w", "other.pth", "-o", "out.onnx").stderr
    assert "encoder.weight" in stderr
    assert "conv_block1.conv1.weight" in stderr


def test_without_torch(shell):
    args = ["export", "cnn14", "-w", "random:0", "-o", "out.onnx"]
    result = shell(*args, before=NO_TORCH)
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith("error: an export needs torch, which cannot be imported (")
    assert result.stderr.endswith(
        'Install it: pip install ".[export]" (in a clone of fusion_engine)\n'
    )
    assert not Path("out.onnx").exists()


def test_a_folder_that_is_not_there(cli):
    result = cli("export", "cnn14", "-w", "random:0", "-o", "no/out.onnx")
    assert result.status == 1
    assert result.stderr.startswith("error: cannot write no/out.onnx: No such file or directory")


@pytest.mark.heavy
def test_a_preset_is_all_one_types(cli):
    result = cli("export", "--preset", "vggish-last", "-w", "random:0")
    assert (result.status, result.stdout) == (0, "")
    assert "vggish-last.onnx: vggish, layers 22, D = 128" in result.stderr
    assert read_spec("vggish-last.onnx").layers[0].number == 22


def test_the_default_name_says_the_layers(cli):
    assert cli("export", "cnn14", "--layers", "2", "1", "-w", "random:0").status == 0
    assert read_spec("cnn14_2_1.onnx").layers[0].number == 2


def test_a_waveform_artifact(cli):
    block_1 = ["export", "cnn14", "--layers", "1", "-w", "random:0", "--seconds", "2"]
    result = cli(*block_1, "--waveform")
    assert (result.status, result.stdout) == (0, "")
    assert "cnn14_1.waveform.onnx: cnn14_16k, layers 1, D = 2048, weights" in result.stderr
    # Of a layer against PyTorch, and of the embedding against the engine.
    assert len(re.findall(r"largest error \d\.\de-0\d", result.stderr)) == 2
    assert takes_samples("cnn14_1.waveform.onnx")
    assert cli(*block_1).status == 0
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 20_000).astype(np.float32)
    paths = ["cnn14_1.onnx", "cnn14_1.waveform.onnx"]
    want, got = (fe.Engine(path).embed(samples) for path in paths)
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-6 * np.abs(want).max())
    reports = [f"{path}.json" for path in paths]
    assert sorted(path.name for path in Path().iterdir()) == sorted([*paths, *reports])


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        ([], 2, "give a MODEL, or --preset NAME"),
        (["cnn14", "--ragged", "--waveform"], 2, "--waveform takes samples: give one"),
        (["cnn14", "--layers", "9", "--waveform", "-w", "random:0"], 1, "unknown layers [9]"),
        (["cnn14", "--preset", "cnn14-last"], 2, "leave them out"),
        (["--layers", "3", "--preset", "cnn14-last"], 2, "leave them out"),
        (["--preset", "cnn14"], 1, "unknown preset 'cnn14'; the presets are cnn14-last"),
        (["cnn14", "--token", "cls", "-w", "random:0"], 1, "cnn14_16k has no tokens"),
        (["ast", "--token", "mean", "-w", "random:0"], 2, "cls_dist_mean"),
    ],
    ids=str,
)
def test_presets_and_tokens_that_do_not_fit(cli, args, status, message):
    result = cli("export", *args)
    assert result.status == status
    assert message in result.stderr.replace("\n", " ")
    assert not list(Path().iterdir())


def test_an_output_that_is_the_weights_is_refused(cli):
    Path("w.pth").write_text("weights")
    Path("out.onnx").symlink_to("w.pth")
    result = cli("export", "cnn14", "-w", "w.pth", "-o", "out.onnx")
    assert result.status == 1
    assert result.stderr.startswith("error: cannot write out.onnx: it is the input w.pth")
    assert Path("w.pth").read_text() == "weights"
