"""``fusion-engine doctor``, on machines made of a PATH and a folder of installed packages."""

import re
import sys

import onnxruntime
import pytest

import fusion_engine as fe
from fusion_engine import _core
from fusion_engine.cli import doctor
from fusion_engine.engine.devices import GpuInfo


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine(nvidia_smi=…, packages={…})``: a driver's answer, distributions besides ours."""

    def make(nvidia_smi=None, packages=()):
        programs, site = tmp_path / "bin", tmp_path / "site"
        programs.mkdir()
        if nvidia_smi is not None:
            program = programs / "nvidia-smi"
            program.write_text(f"#!/bin/sh\n{nvidia_smi}\n")
            program.chmod(0o755)
        for name, version in dict(packages).items():
            info = site / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
        monkeypatch.setenv("PATH", str(programs))
        monkeypatch.syspath_prepend(str(site))

    return make


GPU = "echo 'NVIDIA H200, 9.0, 580.00'"


def findings(result):
    """Two spaces and more separate the columns."""
    rows = (re.split(r" {2,}", line, maxsplit=2) for line in result.stdout.splitlines())
    return {what: (state, found) for state, what, found in rows}


def test_a_machine_without_a_gpu(cli, machine):
    machine()
    result = cli("doctor")
    assert (result.status, result.stderr) == (0, "")
    found = findings(result)
    assert found["fusion_engine"] == (
        "yes",
        f"{fe.__version__} on Python {sys.version.split()[0]}",
    )
    state, native = found["native module"]
    assert state == "yes"
    assert native.startswith(f"{fe.__version__}, CUDA kernels: ")
    for name in _core.cuda_architectures() if _core.cuda_enabled else ["not built in"]:
        assert name in native
    assert found["NVIDIA GPU"] == (
        "no",
        "nvidia-smi is not installed, so there is no NVIDIA driver here",
    )
    assert found["run .onnx on the CPU"] == ("yes", f"onnxruntime {onnxruntime.__version__}")
    assert found["run .onnx on a GPU"] == ("no", "there is no GPU")
    assert "fusion-engine" not in found
    assert found["export models"][0] == "yes"


def test_a_strangers_package(cli, machine):
    machine(packages={"fusion-engine": "3.1"})
    result = cli("doctor")
    assert result.status == 1
    state, found = findings(result)["fusion-engine"]
    assert state == "broken"
    assert "3.1 is installed: PyPI's package of that name is another project's" in found
    assert 'pip uninstall -y fusion-engine && pip install ".[cpu]"' in found


def test_a_machine_with_a_gpu(cli, machine):
    machine(nvidia_smi=GPU)
    result = cli("doctor")
    assert result.status == 0
    assert findings(result)["NVIDIA GPU"] == ("yes", "NVIDIA H200, 9.0, 580.00")


def test_a_driver_that_fails(cli, machine):
    machine(nvidia_smi="echo 'Driver/library version mismatch'; exit 18")
    result = cli("doctor")
    assert result.status == 1
    assert findings(result)["NVIDIA GPU"] == (
        "broken",
        "nvidia-smi failed: Driver/library version mismatch",
    )


@pytest.mark.parametrize(
    ("answer", "remove", "keep"),
    [(None, "onnxruntime-gpu", "onnxruntime"), (GPU, "onnxruntime", "onnxruntime-gpu")],
    ids=["no GPU", "GPU"],
)
def test_both_onnxruntimes(cli, machine, answer, remove, keep):
    machine(nvidia_smi=answer, packages={"onnxruntime-gpu": "1.20.0", "onnxruntime": "1.19.0"})
    result = cli("doctor")
    assert result.status == 1
    state, found = findings(result)["run .onnx"]
    assert state == "broken"
    assert "onnxruntime 1.19.0 and onnxruntime-gpu 1.20.0 overwrite each other's files" in found
    assert f"pip uninstall -y {remove} && pip install --force-reinstall --no-deps {keep}" in found


def test_an_onnxruntime_that_does_not_load(cli, machine, monkeypatch):
    machine()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = cli("doctor")
    assert result.status == 1
    state, found = findings(result)["run .onnx on the CPU"]
    assert state == "broken"
    assert 'pip install ".[cpu]"' in found


def test_what_is_merely_not_installed(cli, machine, monkeypatch):
    machine()
    monkeypatch.setattr(doctor, "_installed", lambda name: None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = cli("doctor")
    assert result.status == 0
    found = findings(result)
    assert found["run .onnx on the CPU"][0] == "no"
    assert found["export models"] == (
        "no",
        'torch and onnxscript missing: pip install ".[export]" (in a clone of fusion_engine)',
    )


@pytest.mark.parametrize(("answer", "state"), [(None, "no"), (GPU, "yes")], ids=["no GPU", "GPU"])
def test_an_onnxruntime_with_cuda(cli, machine, monkeypatch, answer, state):
    machine(nvidia_smi=answer)
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(doctor, "_has_kernels", lambda: True)
    monkeypatch.setattr(doctor, "cuda_missing", lambda: None)
    assert findings(cli("doctor"))["run .onnx on a GPU"][0] == state
    monkeypatch.setattr(doctor, "cuda_missing", lambda: "it was built without kernels")
    assert findings(cli("doctor"))["run .onnx on a GPU"][0] == "no"


@pytest.mark.rtx
def test_tensorrt_without_a_gpu(cli, machine):
    machine()
    found = findings(cli("doctor"))
    import tensorrt_rtx

    name = f"tensorrt_rtx {tensorrt_rtx.__version__}"
    assert found["build plans of tensorrt_rtx"] == ("yes", name)
    assert found["run plans of tensorrt_rtx"] == ("no", f"{name} is installed, and there is no GPU")


@pytest.mark.rtx
def test_tensorrt_where_only_nvidia_smi_knows_of_a_gpu(cli, machine, monkeypatch):
    def find_gpu():
        raise fe.BackendError("the driver does not answer")

    machine(nvidia_smi=GPU)
    monkeypatch.setattr(doctor, "find_gpu", find_gpu)
    state, reason = findings(cli("doctor"))["run plans of tensorrt_rtx"]
    assert (state, reason) == ("no", "the driver does not answer")


@pytest.mark.rtx
@pytest.mark.parametrize("kernels", [True, False])
def test_plans_run_where_the_kernels_are(cli, machine, monkeypatch, kernels):
    found = GpuInfo(0, "NVIDIA L4", (8, 9), 24 << 30, 58, "13.0")
    machine(nvidia_smi="echo 'NVIDIA L4, 8.9, 580.00'")
    monkeypatch.setattr(doctor, "find_gpu", lambda: found)
    monkeypatch.setattr(doctor, "_has_kernels", lambda: kernels)
    rows = findings(cli("doctor"))
    assert rows["TensorRT for 8.9"] == ("yes", "tensorrt_rtx")
    state, reason = rows["run plans of tensorrt_rtx"]
    if kernels:
        assert state == "yes"
        assert reason.endswith("on NVIDIA L4 (SM 8.9), CUDA 13.0")
    else:
        assert (state, reason) == ("no", "the native module has no CUDA kernels")


@pytest.mark.rtx
def test_a_gpu_that_the_library_does_not_serve(cli, machine, monkeypatch):
    """It builds for other GPUs."""
    found = GpuInfo(0, "NVIDIA H200", (9, 0), 141 << 30, 132, "13.0")
    machine(nvidia_smi=GPU)
    monkeypatch.setattr(doctor, "find_gpu", lambda: found)
    monkeypatch.setattr(doctor, "_has_kernels", lambda: True)
    rows = findings(cli("doctor"))
    assert rows["build plans of tensorrt_rtx"][0] == "yes"
    state, reason = rows["run plans of tensorrt_rtx"]
    assert state == "no"
    assert "this is NVIDIA H200 (SM 9.0). Its library is tensorrt: pip install" in reason
    state, needed = rows["TensorRT for 9.0"]
    assert state == "no"
    assert needed.startswith('tensorrt: pip install ".[gpu]"')
    assert needed.endswith("; tensorrt_rtx, which is installed, has no target for it")


@pytest.mark.parametrize(
    ("answer", "rows"),
    [
        ("NVIDIA H200, 9.0, 580.00", {"9.0": ["gpu"]}),
        ("NVIDIA GeForce RTX 4090, 8.9, 580.00", {"8.9": ["gpu", "rtx"]}),
        ("A, 8.9, 580.00\nB, 9.0, 580.00\nC, 8.9, 580.00", {"8.9": ["gpu", "rtx"], "9.0": ["gpu"]}),
    ],
)
def test_what_to_install_for_a_gpu(cli, machine, monkeypatch, answer, rows):
    machine(nvidia_smi=f"echo '{answer}'")
    monkeypatch.setattr(doctor, "installed_runtimes", list)
    found = findings(cli("doctor"))
    names = [name for name in found if name.startswith("TensorRT for ")]
    assert names == [f"TensorRT for {capability}" for capability in rows]
    for name, extras in zip(names, rows.values(), strict=True):
        assert found[name][0] == "no"
        assert re.findall(r'"\.\[(\w+)\]"', found[name][1]) == extras


def test_no_tensorrt(cli, machine, monkeypatch):
    machine()
    monkeypatch.setattr(doctor, "installed_runtimes", list)
    result = cli("doctor")
    assert result.status == 0
    for what in ("build plans", "run plans"):
        state, hint = findings(result)[what]
        assert state == "no"
        assert 'pip install ".[rtx]"' in hint


def test_a_tensorrt_that_does_not_load(cli, machine, monkeypatch):
    machine()
    monkeypatch.setattr(doctor, "installed_runtimes", lambda: ["tensorrt"])
    result = cli("doctor")
    assert result.status == 1
    state, reason = findings(result)["build plans of tensorrt"]
    assert state == "broken"
    assert reason.startswith("tensorrt cannot be imported (")


def test_a_native_module_that_does_not_load(shell):
    result = shell("doctor", before="import sys; sys.modules['fusion_engine._core'] = None")
    assert result.status == 1
    state, reason = findings(result)["native module"]
    assert state == "broken"
    assert reason.startswith("it does not load (")
    assert findings(result)["fusion_engine"][0] == "yes"


def test_a_native_module_of_another_version(cli, machine, monkeypatch):
    machine()
    monkeypatch.setattr(_core, "__version__", "0.0.1")
    result = cli("doctor")
    assert result.status == 1
    assert findings(result)["native module"] == (
        "broken",
        f"0.0.1, expected {fe.__version__}: reinstall",
    )


def test_instruction_sets(cli, machine, monkeypatch):
    machine()
    monkeypatch.setattr(doctor, "instruction_sets", lambda: ("AVX2", "VNNI"))
    monkeypatch.setattr(doctor, "dot_products", lambda: True)
    assert findings(cli("doctor"))["instruction sets"] == ("yes", "AVX2, VNNI")
    monkeypatch.setattr(doctor, "dot_products", lambda: False)
    assert "no VNNI" in findings(cli("doctor"))["instruction sets"][1]
    monkeypatch.setattr(doctor, "instruction_sets", tuple)
    assert "instruction sets" not in findings(cli("doctor"))
