"""``fusion-engine doctor``."""

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import typer

from .._install import install
from .._instructions import dot_products, instruction_sets
from .._version import __version__
from ..engine.devices import find_gpu
from ..engine.onnx import cuda_missing, import_onnxruntime
from ..engine.tensorrt.library import (
    EXTRAS,
    RUNTIMES,
    Library,
    import_tensorrt,
    installed_runtimes,
)
from ..engine.tensorrt.targets import not_served, serves
from ..errors import BackendError
from ._app import app, print_fields

Status = Literal["yes", "no", "broken"]
# Whether it is there, what, and what was found or how to get it.
Finding = tuple[Status, str, str]

_RUN_CPU, _RUN_GPU = "run .onnx on the CPU", "run .onnx on a GPU"
_BUILD_PLANS, _RUN_PLANS = "build plans", "run plans"
_NO_VNNI = "; no VNNI, so INT8 artifacts are smaller here and may not be faster"
_NO_KERNELS = "the native module has no CUDA kernels"


@app.command()
def doctor() -> None:
    """Say what this machine can run, and why not.

    The exit status is 1 when something is broken, and 0 when something is merely not there.
    """
    findings = list(_findings())
    width = max(len(what) for _, what, _ in findings) + 2
    print_fields((state, f"{what:{width}}{found}") for state, what, found in findings)
    if any(state == "broken" for state, _, _ in findings):
        raise typer.Exit(1)


def _findings() -> Iterator[Finding]:
    yield "yes", "fusion_engine", f"{__version__} on Python {platform.python_version()}"
    if (stranger := _stranger()) is not None:
        yield stranger
    yield _native_module()
    if sets := instruction_sets():
        yield "yes", "instruction sets", ", ".join(sets) + ("" if dot_products() else _NO_VNNI)
    gpu = _gpu()
    yield gpu
    yield from _runtimes(gpu[0] == "yes")
    if gpu[0] == "yes":
        yield from _library_of_gpu(gpu[2])
    yield from _tensorrt(gpu[0] == "yes")
    missing = [name for name in ("torch", "onnxscript") if _installed(name) is None]
    if missing:
        needed = f"{' and '.join(missing)} missing: {install('export')}"
        yield "no", "export models", needed
    else:
        yield "yes", "export models", f"torch {_installed('torch')}"


def _stranger() -> Finding | None:
    """PyPI's ``fusion-engine``, another project's, where it is installed."""
    found = _installed("fusion-engine")
    if found is None:
        return None
    return (
        "broken",
        "fusion-engine",
        f"{found} is installed: PyPI's package of that name is another project's and can take the "
        "place of our command. This one is audio-fusion-engine: pip uninstall -y fusion-engine && "
        + install("cpu"),
    )


def _native_module() -> Finding:
    name = "native module"
    try:
        from .. import _core
    except ImportError as error:
        return "broken", name, f"it does not load ({error}): reinstall audio-fusion-engine"
    if _core.__version__ != __version__:
        return "broken", name, f"{_core.__version__}, expected {__version__}: reinstall"
    kernels = "not built in; pip needs nvcc, and FUSION_ENGINE_CUDA=ON insists"
    if _core.cuda_enabled:
        kernels = ", ".join(_core.cuda_architectures())
    return "yes", name, f"{_core.__version__}, CUDA kernels: {kernels}"


def _has_kernels() -> bool:
    try:
        from .. import _core
    except ImportError:
        return False
    return _core.cuda_enabled


def _gpu() -> Finding:
    name = "NVIDIA GPU"
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no", name, "nvidia-smi is not installed, so there is no NVIDIA driver here"
    query = [program, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "broken", name, f"nvidia-smi does not answer: {error}"
    answer = "; ".join(line.strip() for line in (result.stdout + result.stderr).splitlines())
    if result.returncode:
        return "broken", name, f"nvidia-smi failed: {answer}"
    return "yes", name, answer


def _runtimes(gpu: bool) -> Iterator[Finding]:
    """What ONNX Runtime can do, on a machine with or without a ``gpu``."""
    both = [_installed(name) for name in ("onnxruntime", "onnxruntime-gpu")]
    if all(both):
        machine = "has a GPU" if gpu else "has no GPU"
        remove, keep = ("onnxruntime", "onnxruntime-gpu")[:: 1 if gpu else -1]
        yield (
            "broken",
            "run .onnx",
            f"onnxruntime {both[0]} and onnxruntime-gpu {both[1]} overwrite each other's files; "
            f"this machine {machine}: pip uninstall -y {remove} && "
            f"pip install --force-reinstall --no-deps {keep}",
        )
        return
    try:
        runtime = import_onnxruntime()
    except BackendError as error:
        yield "broken" if any(both) else "no", _RUN_CPU, str(error)
        return
    yield "yes", _RUN_CPU, f"onnxruntime {runtime.__version__}"
    if not gpu:
        yield "no", _RUN_GPU, "there is no GPU"
    elif "CUDAExecutionProvider" not in runtime.get_available_providers():
        mend = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        yield "no", _RUN_GPU, f"this onnxruntime is for the CPU only: {mend}"
    elif not _has_kernels():
        yield "no", _RUN_GPU, _NO_KERNELS
    elif (reason := cuda_missing()) is not None:
        yield "no", _RUN_GPU, reason
    else:
        yield "yes", _RUN_GPU, "through onnxruntime's CUDA provider"


def _library_of_gpu(answer: str) -> Iterator[Finding]:
    """The TensorRT for each compute capability that nvidia-smi named in its ``answer``."""
    installed = installed_runtimes()
    # A name may hold numbers too: "NVIDIA L4, 8.9, 580.00".
    for capability in dict.fromkeys(re.findall(r", (\d+\.\d+), ", answer)):
        what = f"TensorRT for {capability}"
        fitting = [name for name in RUNTIMES if serves(name, capability)]
        here = [name for name in fitting if name in installed]
        if here:
            yield "yes", what, here[0]
            continue
        needed = " or ".join(f"{name}: {install(EXTRAS[name])}" for name in fitting)
        others = [f"; {name}, which is installed, has no target for it" for name in installed]
        yield "no", what, needed + "".join(others)


def _tensorrt(gpu: bool) -> Iterator[Finding]:
    """The TensorRT libraries, and what they can do on a machine with or without a ``gpu``."""
    libraries = installed_runtimes()
    if not libraries:
        hint = f"no TensorRT: {install('gpu')} or {install('rtx')}"
        yield "no", _BUILD_PLANS, hint
        yield "no", _RUN_PLANS, hint
        return
    for name in libraries:
        try:
            library = import_tensorrt(name)
        except BackendError as error:
            yield "broken", f"{_BUILD_PLANS} of {name}", str(error)
            continue
        yield from _with_tensorrt(library, gpu)


def _with_tensorrt(library: Library, gpu: bool) -> Iterator[Finding]:
    """What a TensorRT library can do; both tasks need more of a GPU than nvidia-smi."""
    builds, runs = f"{_BUILD_PLANS} of {library.runtime}", f"{_RUN_PLANS} of {library.runtime}"
    where, reason = "", f"{library} is installed, and there is no GPU"
    if gpu:
        try:
            found = find_gpu()
            where, reason = f"{library} on {found}, CUDA {found.driver}", ""
            if not serves(library.runtime, found.capability):
                where, reason = "", not_served(found)
        except BackendError as error:
            reason = str(error)
    if library.is_rtx:
        yield "yes", builds, str(library)
    else:
        yield ("yes", builds, where) if where else ("no", builds, reason)
    if where and not _has_kernels():
        where, reason = "", _NO_KERNELS
    yield ("yes", runs, where) if where else ("no", runs, reason)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
