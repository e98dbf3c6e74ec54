"""What a build compiles for: FUSION_ENGINE_CUDA, the GPUs of a machine, and what nvcc knows."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CMAKE = shutil.which(
    "cmake", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
)
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
# Of CUDA 12.8, which does not know 103, 110 and 121.
KNOWN = "75;80;86;87;89;90;100;120"


def machine(folder, answer, status=0):
    """An environment whose nvidia-smi says this, whatever the machine has."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nprintf '{answer}'\nexit {status}\n")
    program.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "CUDAARCHS"}
    return environment | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


def script(folder, code, environment=None):
    """What a script of CMake prints that knows cmake/gpus.cmake."""
    path = folder / "script.cmake"
    path.write_text(f'include({ROOT}/cmake/gpus.cmake)\n{code}\nmessage(NOTICE "${{result}}")\n')
    done = subprocess.run(
        [CMAKE, "-P", path], env=environment, capture_output=True, text=True, check=True
    )
    return done.stderr.strip()


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ("90", "90"),
        ("89;89;120", "89;120"),  # two GPUs of one kind, and another
        ("88", "87-virtual"),
        ("121", "120-virtual"),
        ("70", ""),
        ("70;80", "80"),
    ],
)
def test_architectures_of_gpus(tmp_path, gpus, expected):
    """The GPU's own, or the PTX of the one before where the compiler does not know it."""
    code = f'fusion_engine_architectures_of("{gpus}" "{KNOWN}" result)'
    assert script(tmp_path, code) == expected


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        (r"9.0\n", 0, "90"),
        (r"12.0\n9.0\n12.0\n", 0, "120;90"),
        (r"No devices were found\n", 6, ""),
        (r"[N/A]\n", 0, ""),
        ("NVIDIA-SMI has failed because it could not communicate with the driver", 9, ""),
    ],
)
def test_gpus_of_a_machine(tmp_path, answer, status, expected):
    environment = machine(tmp_path, answer, status)
    assert script(tmp_path, "fusion_engine_find_gpus(result)", environment) == expected


def test_a_machine_without_a_driver_has_no_gpu(tmp_path):
    environment = {"PATH": str(tmp_path)}
    code = 'set(CMAKE_SYSTEM_PROGRAM_PATH "")\nset(result 75)\nfusion_engine_find_gpus(result)'
    if shutil.which("nvidia-smi", path="/usr/bin:/bin:/usr/local/bin"):
        pytest.skip("nvidia-smi lies where CMake looks whatever PATH says")
    assert script(tmp_path, code, environment) == ""


def configure(folder, environment, *options):
    """What CMake says of CUDA when it configures the project with FUSION_ENGINE_CUDA=AUTO."""
    pybind11 = subprocess.run(
        [sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    done = subprocess.run(
        [
            *(CMAKE, "-S", ROOT, "-B", folder / "build", f"-Dpybind11_DIR={pybind11}"),
            *(f"-DPython_EXECUTABLE={sys.executable}", "-DFUSION_ENGINE_CUDA=AUTO", *options),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (said,) = re.findall(r"^-- ((?:Building without )?CUDA kernels .*)$", done.stdout, re.MULTILINE)
    return said


def test_without_a_gpu_auto_builds_no_kernels_and_says_so(tmp_path):
    said = configure(tmp_path, machine(tmp_path, "", 9))
    assert said == (
        "Building without CUDA kernels (FUSION_ENGINE_CUDA=AUTO): nvidia-smi finds no GPU. "
        "FUSION_ENGINE_CUDA=ON builds for all supported ones"
    )


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="no nvcc")
def test_auto_builds_for_the_gpus_of_the_machine(tmp_path):
    said = configure(tmp_path, machine(tmp_path, r"9.0\n8.6\n"))
    assert said.endswith(" for sm_90,compute_90,sm_86,compute_86")


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="no nvcc")
def test_an_architecture_that_is_given_needs_no_gpu(tmp_path):
    said = configure(tmp_path, machine(tmp_path, "", 9), "-DCMAKE_CUDA_ARCHITECTURES=90")
    assert said.endswith(" for sm_90,compute_90")
    # Nor does one in the environment, and it goes before the GPUs that are there.
    (tmp_path / "other").mkdir()
    environment = machine(tmp_path / "other", r"9.0\n") | {"CUDAARCHS": "89-real"}
    assert configure(tmp_path / "other", environment).endswith(" for sm_89")
