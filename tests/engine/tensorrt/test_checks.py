"""What keeps a plan from running here, said before it is loaded."""

import hashlib
import json
import logging
import shlex
import sys
from dataclasses import replace

import pytest
import typer

from fusion_engine import ArtifactError, BackendError
from fusion_engine.cli import app
from fusion_engine.engine.network_input import LOG_MEL
from fusion_engine.engine.tensorrt import build, preflight, read_plan, targets
from fusion_engine.engine.tensorrt import library as library_module
from fusion_engine.engine.tensorrt.network_name import encode_name
from fusion_engine.engine.tensorrt.plan_file import find_name
from fusion_engine.engine.tensorrt.sidecar import sidecar_path, write_sidecar

pytestmark = pytest.mark.rtx


def test_a_plan_of_this_library(small, library, gpu, caplog):
    assert preflight(small.path, library=library, gpu=gpu) == small
    assert preflight(small.path) == small
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "1.4.0.76"}, "and this is tensorrt_rtx 1.4.0.76; a plan is bound to both"),
        ({"runtime": "tensorrt"}, "and this is tensorrt 1.7"),
    ],
)
def test_another_library(small, library, change, message):
    other = replace(library, **change)
    with pytest.raises(BackendError) as error:
        preflight(small.path, library=other)
    assert f"{small.path}: built by tensorrt_rtx {library.version}" in str(error.value)
    assert message.partition(" 1.7")[0] in str(error.value)
    assert "Build it again: fusion-engine build" in str(error.value)


def test_a_gpu_that_the_plan_was_not_built_for(small, library, gpu):
    turing = replace(gpu, name="Tesla T4", compute_capability=(7, 5))
    with pytest.raises(BackendError) as error:
        preflight(small.path, library=library, gpu=turing)
    assert (
        "built for compute capability 8.0, 8.6, 8.9, 12.0 and 12.1, and this is Tesla T4 (SM 7.5). "
        "Build it again: fusion-engine build "
    ) in str(error.value)
    assert "--runtime tensorrt_rtx --precision bf16 --targets 7.5 " in str(error.value)
    # Nobody knows without a sidecar, and the library serves it.
    sidecar_path(small.path).unlink()
    preflight(small.path, library=library, gpu=turing)


def test_a_library_that_is_missing_and_would_not_help(small, h200, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.delitem(library_module._loaded, "tensorrt_rtx", raising=False)
    with pytest.raises(BackendError) as error:
        preflight(small.path, gpu=h200)
    assert 'Its library is tensorrt: pip install ".[gpu]"' in str(error.value)
    assert ".[rtx]" not in str(error.value)


@pytest.mark.parametrize("beside", [True, False])
def test_a_gpu_that_the_library_does_not_serve(small, gpu, h200, library, beside):
    """The same library would build the same again: the command names the other one."""
    if not beside:
        sidecar_path(small.path).unlink()
    with pytest.raises(BackendError) as error:
        preflight(small.path, library=library, gpu=h200)
    said = str(error.value)
    assert said.startswith(f"{small.path}: tensorrt_rtx runs on compute capability 7.5, ")
    assert "and this is NVIDIA H200 (SM 9.0). Its library is tensorrt: pip install" in said
    assert "Build it again with that: fusion-engine build " in said
    assert "tensorrt_rtx --" not in said
    assert ("--runtime tensorrt --precision bf16 --batch 1:8:32" in said) is beside


def test_a_sidecar_of_before_there_were_targets(small, library, gpu):
    """It means what the library builds for by itself, and one profile."""
    path = sidecar_path(small.path)
    data = json.loads(path.read_text())
    for name in ("targets", "tiling", "input"):
        del data[name]
    # Its plan took log-mel.
    plan = small.path.read_bytes()
    plan = plan.replace(find_name(plan).encode(), encode_name(small.spec).encode())
    small.path.write_bytes(plan)
    same = {"sha256": hashlib.sha256(plan).hexdigest(), "bytes": len(plan)}
    data |= {"format_version": 1, "profile": data.pop("profiles")[-1], **same}
    path.write_text(json.dumps(data))
    sidecar = preflight(small.path, library=library, gpu=gpu).sidecar
    assert sidecar == replace(
        small.sidecar, profiles=small.sidecar.profiles[-1:], input=LOG_MEL, **same
    )
    assert "--no-static-profile" in sidecar.rebuild_command("a.plan")
    data |= {"runtime": "tensorrt", "gpu": "NVIDIA L4", "compute_capability": "8.9"}
    path.write_text(json.dumps(data))
    assert read_plan(small.path).sidecar.targets == ("8.9",)


def of_tensorrt(small, library, gpu):
    """The sidecar as tensorrt would have it, tuned on ``gpu``, and that library."""
    sidecar = replace(
        small.sidecar,
        runtime="tensorrt",
        gpu=gpu.name,
        compute_capability=gpu.capability,
        targets=(gpu.capability,),
    )
    write_sidecar(sidecar_path(small.path), sidecar)
    return replace(library, runtime="tensorrt")


def test_another_gpu(small, library, gpu, h200, caplog):
    tensorrt = of_tensorrt(small, library, h200)
    assert preflight(small.path, library=tensorrt, gpu=h200).runtime == "tensorrt"
    with pytest.raises(BackendError) as error:
        preflight(small.path, library=tensorrt, gpu=gpu)
    assert "built on an NVIDIA H200 (compute capability 9.0), and this is NVIDIA L4 (SM 8.9)" in (
        str(error.value)
    )
    assert "--runtime tensorrt --precision bf16" in str(error.value)
    assert caplog.messages == []
    preflight(small.path, library=tensorrt, gpu=replace(h200, name="NVIDIA H100"))
    assert "may be slower than a plan built here" in caplog.text


def test_a_library_that_is_missing(small, library, gpu, h200, monkeypatch):
    of_tensorrt(small, library, gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.delitem(library_module._loaded, "tensorrt", raising=False)
    with pytest.raises(BackendError) as error:
        preflight(small.path, gpu=gpu)
    assert str(error.value).startswith(f"{small.path}: tensorrt cannot be imported (")
    assert 'pip install ".[gpu]"' in str(error.value)
    assert f"-o {small.path} --runtime tensorrt_rtx --precision bf16" in str(error.value)
    # Where the other library would not do either, it is not offered.
    with pytest.raises(BackendError) as error:
        preflight(small.path, gpu=h200)
    assert "tensorrt_rtx" not in str(error.value)


def test_another_system(small, library):
    write_sidecar(sidecar_path(small.path), replace(small.sidecar, system="win32-AMD64"))
    with pytest.raises(BackendError, match=r"built on win32-AMD64, and this machine is linux-"):
        preflight(small.path, library=library)


def test_what_cannot_be_checked_is_logged(small, library, gpu, caplog, monkeypatch):
    """Without a sidecar any library is tried: none is known to be another one."""
    sidecar_path(small.path).unlink()
    with caplog.at_level(logging.WARNING):
        preflight(small.path, library=replace(library, version="1.4.0.76"), gpu=gpu)
    assert "no sidecar beside it, so that nobody knows whether its bytes are intact" in caplog.text
    assert "Put small.plan.json beside it, or build it again: fusion-engine build" in caplog.text
    assert preflight(small.path, gpu=gpu).runtime is None
    for module in (library_module, targets):
        monkeypatch.setattr(module, "installed_runtimes", list)
    with pytest.raises(BackendError, match="neither tensorrt nor tensorrt_rtx is installed"):
        preflight(small.path, gpu=gpu)


def test_damage_comes_first(small, library, gpu):
    small.path.write_bytes(small.path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="truncated"):
        preflight(small.path, library=replace(library, version="0"), gpu=gpu)


def test_the_rebuild_command_reproduces_the_options(cnn14_artifact, tmp_path):
    options = {
        "precision": "fp16",
        "batch": (1, 2, 3),
        "frames": (40, 50, 60),
        "static_profile": False,
        "targets": ("8.6", "12.0"),
        "effort": 1,
        "tiling": "full",
        "linear_outputs": True,
        "log_mel_input": True,
    }
    info = build(cnn14_artifact, tmp_path / "a b.plan", **options)
    program, command, *args = shlex.split(info.rebuild_command)
    assert (program, command) == ("fusion-engine", "build")
    parsed = typer.main.get_command(app).commands["build"].make_context("build", args).params
    assert parsed["artifact"].name == cnn14_artifact.name
    assert parsed["output"] == info.path
    assert (parsed["runtime"], parsed["precision"]) == ("tensorrt_rtx", "fp16")
    assert (parsed["batch"], parsed["frames"]) == ("1:2:3", "40:50:60")
    assert (parsed["effort"], parsed["linear_outputs"]) == (1, True)
    assert parsed["log_mel_input"]
    assert (parsed["static_profile"], parsed["tiling"]) == (False, "full")
    assert parsed["targets"] == "8.6,12.0"
    plain = build(cnn14_artifact, tmp_path / "plain.plan", precision="fp16").rebuild_command
    for option in ("static", "--targets", "--tiling", "--linear", "--log-mel"):
        assert option in info.rebuild_command
        assert option not in plain
