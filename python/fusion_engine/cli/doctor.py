"""``fusion-engine doctor``."""

import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import typer
from rich.table import Table

from .. import _core
from .._version import __version__
from ..engine.backends.onnx_runtime import INSTALL_HINT, import_onnxruntime
from ..errors import BackendError
from ._app import app, stdout

Finding = tuple[Literal["ok", "no", "bad"], str, str]

_MARKS = {"ok": "[green]yes[/green]", "no": "[yellow]no[/yellow]", "bad": "[red]broken[/red]"}


@app.command()
def doctor() -> None:
    """Say what this machine can run, and why not. Exit status 1 when something is broken."""
    table = Table("", "what", "found", title_justify="left")
    findings = list(_findings())
    for state, what, found in findings:
        table.add_row(_MARKS[state], what, found)
    stdout.print(table)
    if any(state == "bad" for state, _, _ in findings):
        raise typer.Exit(1)


def _findings() -> Iterator[Finding]:
    yield "ok", "fusion_engine", f"{__version__} on Python {platform.python_version()}"
    if _core.__version__ == __version__:
        yield "ok", "native module", f"{_core.__version__}, CUDA kernels: {_cuda_kernels()}"
    else:
        yield "bad", "native module", f"{_core.__version__}, expected {__version__}: reinstall"
    yield from _runtimes()
    yield _gpu()
    torch = _installed("torch")
    if torch is None or _installed("onnxscript") is None:
        hint = 'pip install "fusion-engine[export]"'
        yield "no", "export models", f"torch and onnxscript are needed: {hint}"
    else:
        yield "ok", "export models", f"torch {torch}"


def _runtimes() -> Iterator[Finding]:
    cpu, gpu = _installed("onnxruntime"), _installed("onnxruntime-gpu")
    if cpu and gpu:
        yield (
            "bad",
            "run .onnx",
            f"onnxruntime {cpu} and onnxruntime-gpu {gpu} overwrite each other: remove both, then "
            "install the one you want",
        )
        return
    try:
        runtime = import_onnxruntime()
    except BackendError as error:
        yield "bad" if cpu or gpu else "no", "run .onnx on the CPU", str(error)
        return
    providers = runtime.get_available_providers()
    yield "ok", "run .onnx on the CPU", f"onnxruntime {runtime.__version__}"
    if "CUDAExecutionProvider" in providers:
        yield "ok", "run .onnx on a GPU", "CUDA provider found; it also needs a GPU and its driver"
    else:
        yield (
            "no",
            "run .onnx on a GPU",
            f"this onnxruntime has no CUDA provider; onnxruntime-gpu in place of {INSTALL_HINT}",
        )


def _gpu() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no", "NVIDIA GPU", "nvidia-smi is not installed: no driver on this machine"
    query = [program, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    if result.returncode:
        return "bad", "NVIDIA GPU", (result.stdout + result.stderr).strip()
    return "ok", "NVIDIA GPU", result.stdout.strip()


def _cuda_kernels() -> str:
    if not _core.cuda_enabled:
        return "not built (no nvcc at build time; FUSION_ENGINE_CUDA=ON insists)"
    return ", ".join(_core.cuda_architectures())


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
