"""``fusion-engine build``, with tensorrt_rtx."""

import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from fusion_engine.artifact import read_spec
from fusion_engine.engine.devices import GpuInfo
from fusion_engine.engine.tensorrt import read_plan

from .conftest import command, on_a_terminal
from .test_main import examples

pytestmark = pytest.mark.rtx

NO_TENSORRT = "import sys; sys.modules.update(tensorrt=None, tensorrt_rtx=None)"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch, cnn14_artifact):
    monkeypatch.chdir(tmp_path)
    Path("test.onnx").write_bytes(cnn14_artifact.read_bytes())


def files():
    return sorted(path.name for path in Path().iterdir())


def test_an_example_of_the_help(cli):
    (example,) = (args for args in examples(cli, "build") if "bf16" in args)
    assert shlex.join(example) == "test.onnx --precision bf16 --seconds 1:2:10"
    result = cli("build", *example)
    assert (result.status, result.stdout) == (0, "")
    built, takes, runs = result.stderr.splitlines()
    said = (
        r"test\.plan: cnn14_16k, layers 1, bf16, built by tensorrt_rtx [\d.]+, 0\.\d MB, \d\.\d s"
    )
    assert re.fullmatch(said, built)
    assert takes.startswith("takes 1:8:32 clips or segments of 101:201:1001 frames; the largest")
    assert runs == "runs on GPUs of compute capability 8.0, 8.6, 8.9, 12.0 and 12.1"
    assert files() == ["test.onnx", "test.plan", "test.plan.json"]
    info = read_plan("test.plan")
    assert (info.spec.precision, info.spec.max_frames, info.spec.min_frames) == ("bf16", 1001, 32)
    assert info.sidecar.profile.batch.triple == (1, 8, 32)


def test_every_option(shell):
    options = ["--precision", "fp16", "--frames", "32:64:96", "--effort", "1", "--linear-outputs"]
    options += ["--tiling", "fast", "--targets", "8.9,12.0", "--no-static-profile"]
    options += ["--runtime", "tensorrt_rtx", "--typed-onnx", "typed.onnx", "-o", "a.plan"]
    result = shell("build", "test.onnx", *options)
    assert result.status == 0
    assert "warning: test.onnx: no activation ranges were recorded" in result.stderr
    sidecar = read_plan("a.plan").sidecar
    assert sidecar.profile.frames.triple == (32, 64, 96)
    assert (sidecar.effort, sidecar.linear_outputs) == (1, True)
    assert (sidecar.tiling, sidecar.targets) == ("fast", ("8.9", "12.0"))
    assert sidecar.profiles == (sidecar.profile,)
    assert [tensor.format for tensor in sidecar.tensors] == ["linear", "linear"]
    assert read_spec("typed.onnx").precision == "fp16"


def test_bars_on_a_terminal():
    status, shown = on_a_terminal(command("build", "test.onnx", "--precision", "fp32"))
    assert status == 0
    assert "Building engine" in shown
    assert shown.count("test.plan: cnn14_16k, layers 1, fp32, built by tensorrt_rtx") == 1


def test_what_was_chosen_is_said(shell):
    said = shell("build", "test.onnx", "--precision", "fp32", "--verbose").stderr
    assert "info: runtime: tensorrt_rtx, the only one installed\n" in said
    assert "info: timing cache: none, tensorrt_rtx " in said


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--batch", "8"], 2, "'--batch': '8' is not MIN:OPT:MAX, for example 1:8:32"),
        (["--batch", "1:x:32"], 2, "'1:x:32' is not MIN:OPT:MAX"),
        (["--frames", "32:33.5:64"], 2, "'32:33.5:64' are not whole numbers"),
        (["--batch", "3:2:1"], 2, "batch 3:2:1: expected MIN:OPT:MAX"),
        (["--frames", "16:64:96"], 2, "cnn14_16k takes at least 32 frames (0.31 s)"),
        (["--seconds", "1:2:3", "--frames", "32:64:96"], 2, "give one of them"),
        (["--precision", "int8"], 2, "'int8' is not one of"),
        (["--effort", "6"], 2, "'--effort'"),
        (["--tiling", "most"], 2, "'most' is not one of"),
        (["--targets", "8.9,9.0"], 2, "['8.9', '9.0'], expected some of ['7.5', '8.0', "),
        (["-o", "a.engine"], 2, "a.engine must end in .plan"),
        (["--precision", "fp32", "--typed-onnx", "t.onnx"], 2, "fp32 has no typed graph"),
        (["--seconds", "1:2:1e308"], 2, "1e+308): expected lengths from 0 to 86400"),
        (["--typed-onnx", "test.onnx"], 1, "cannot write test.onnx: it is the input test.onnx"),
        (["-o", "no/a.plan"], 1, "error: cannot write no/a.plan.json: No such file or directory"),
        (["--runtime", "tensorrt"], 1, 'Install it: pip install ".[gpu]"'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused(cli, args, status, message):
    result = cli("build", "test.onnx", *args)
    assert (result.status, result.stdout) == (status, "")
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert files() == ["test.onnx"]


def test_a_folder_is_no_artifact(cli):
    result = cli("build", ".")
    assert result.status == 2
    assert "'.' is a directory" in result.stderr


def test_without_tensorrt(shell):
    result = shell("build", "test.onnx", "--runtime", "tensorrt_rtx", before=NO_TENSORRT)
    assert result.status == 1
    assert result.stderr.startswith("error: tensorrt_rtx cannot be imported (")
    assert result.stderr.endswith(
        'Install it: pip install ".[rtx]" (in a clone of fusion_engine)\n'
    )


def test_ctrl_c():
    """Pressed once the builder is at work."""
    program = """
import os, signal
from contextlib import contextmanager
from fusion_engine.cli import build
from fusion_engine.cli._app import go_on

pressed = []

def press(phase, step, steps):
    if not pressed:
        pressed.append(phase)
        os.kill(os.getpid(), signal.SIGINT)
    go_on()  # as the bars do: what the handler raises is dropped in a callback

@contextmanager
def pressing():
    yield press

build.phase_bars = pressing
"""
    done = subprocess.run(
        command("build", "test.onnx", "--precision", "fp32", before=program),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in done.stderr
    assert files() == ["test.onnx"]


def test_info(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli("build", "test.onnx", "--precision", "bf16", "--frames", "32:64:90").status == 0
    result = cli("info", "test.plan")
    assert (result.status, result.stderr) == (0, "")
    fields = dict(line.split("  ", 1) for line in result.stdout.splitlines() if line[0] != " ")
    fields = {name: value.strip() for name, value in fields.items()}
    info = read_plan("test.plan")
    assert fields["precision"] == "bf16"
    # No room for a chunk between its margins.
    assert fields["input"] == "32…90 frames (up to 0.9 s a clip)"
    assert fields["profiles"] == "batch 8, frames 64"
    assert "\n                batch 1:8:32, frames 32:64:90\n" in result.stdout
    assert fields["tensors"] == "log_mel: bfloat16 [-1, 1, -1, 64], linear"
    assert "  layer_1: bfloat16 [-1, 64, -1, 32], hwc8\n" in result.stdout
    version = info.sidecar.runtime_version
    assert fields["built by"] == (
        f"tensorrt_rtx {version} without a GPU, {info.sidecar.system}, effort 3, tiling none"
    )
    assert fields["built for"] == "compute capability 8.0, 8.6, 8.9, 12.0 and 12.1"
    assert fields["SHA-256"] == f"{info.sidecar.sha256}, as the sidecar says"
    assert fields["certificate"].startswith("none")
    assert fields["runs here"].startswith(("no: no NVIDIA driver", "yes, on "))
    assert cli("info", "--json", "test.plan").stdout.count('"precision": "bf16"') == 1
    Path("test.plan.json").unlink()
    shown = cli("info", "test.plan").stdout
    assert "built by        unknown: no sidecar is beside the plan\n" in shown
    assert "SHA-256         not checked\n" in shown


def test_info_on_a_gpu(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    gpu = GpuInfo(0, "NVIDIA L4", (8, 9), 1 << 30, 58, "13.0")
    monkeypatch.setattr("fusion_engine.engine.devices.find_gpu", lambda: gpu)
    assert cli("build", "test.onnx", "--precision", "bf16").status == 0
    on = "on NVIDIA L4 (SM 8.9) with tensorrt_rtx "
    assert f"runs here       yes, {on}" in cli("info", "test.plan").stdout
    Path("test.plan.json").unlink()
    # The system that it was built on, for one, is not known.
    assert f"runs here       perhaps, {on}" in cli("info", "test.plan").stdout


@pytest.mark.parametrize("beside", [True, False])
def test_info_on_a_gpu_that_the_library_does_not_serve(cli, monkeypatch, beside):
    h200 = GpuInfo(0, "NVIDIA H200", (9, 0), 1 << 30, 132, "13.0")
    assert cli("build", "test.onnx", "--precision", "bf16").status == 0
    if not beside:
        Path("test.plan.json").unlink()
    monkeypatch.setattr("fusion_engine.engine.devices.find_gpu", lambda: h200)
    shown = " ".join(cli("info", "test.plan").stdout.split())
    assert "runs here no: " in shown
    assert "this is NVIDIA H200 (SM 9.0). Its library is tensorrt: pip install" in shown
    assert ("--runtime tensorrt --precision bf16" in shown) is beside


def test_info_on_damaged_plans(shell):
    """In a process of its own: none of them may end it otherwise than by an explained error."""
    args = ["build", "test.onnx", "--precision", "fp32"]
    assert subprocess.run(command(*args), timeout=60).returncode == 0
    whole = Path("test.plan").read_bytes()
    for data, message in (
        (whole[: len(whole) // 2], "truncated"),
        (whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:], "its SHA-256 is"),
        (b"no plan" * 100, "truncated"),
    ):
        Path("test.plan").write_bytes(data)
        result = shell("info", "test.plan")
        assert (result.status, result.stdout) == (1, "")
        assert result.stderr.startswith(f"error: test.plan: {message}")
        assert "fusion-engine build test.onnx -o test.plan --runtime tensorrt_rtx" in result.stderr
        assert result.stderr.count("\n") == 1


def test_building_needs_no_torch():
    program = "import sys; sys.modules['torch'] = None"
    args = command("build", "test.onnx", "--precision", "fp16", before=program)
    done = subprocess.run(args, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_output_that_is_the_input_is_refused(cli):
    Path("link.plan").symlink_to("test.onnx")
    Path("copy.onnx").symlink_to("test.onnx")
    before = Path("test.onnx").read_bytes()
    for options in (["-o", "link.plan"], ["--typed-onnx", "copy.onnx"]):
        result = cli("build", "test.onnx", *options)
        assert result.status == 1
        assert "it is the input test.onnx; choose another path" in result.stderr
    assert Path("test.onnx").read_bytes() == before
