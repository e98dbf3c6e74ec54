"""Which runner an artifact gets: the CPU's, or a GPU's on TensorRT or ONNX Runtime."""

import logging
import re
from pathlib import Path
from typing import Literal, get_args

from ..errors import ArtifactError, BackendError
from .backends.onnx_runtime import OnnxRuntimeBackend, cuda_missing
from .host import HostRunner
from .options import Options
from .runner import Runner
from .stats import Meter

logger = logging.getLogger(__name__)

BackendName = Literal["onnxruntime", "tensorrt"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


def open_runner(path: Path, options: Options, meter: Meter) -> Runner:
    """Open an artifact on the device and with the library that the caller or its suffix names.

    Raises:
        ArtifactError: missing, damaged, or of an unknown kind.
        BackendError: the library or the device is missing.
        ValueError: a device or backend that does not exist, or a frontend that does not fit.
    """
    device, backend = options.device, options.backend
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", device) is None:
        raise ValueError(f"device is {device!r}, expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {list(BACKENDS)} or None")
    if not path.exists():
        raise ArtifactError(f"{path}: no such file. Write one with `fusion-engine export`.")
    if path.is_dir():
        raise ArtifactError(f"{path}: a folder, expected an .onnx or .plan file")
    if path.suffix not in (".onnx", ".plan"):
        raise ArtifactError(
            f"{path}: unknown kind {path.suffix!r}, expected an .onnx or .plan file"
        )
    if path.suffix == ".plan" or backend == "tensorrt":
        if backend == "onnxruntime":
            raise ValueError(f"backend is 'onnxruntime', and {path} is a plan of TensorRT")
        if device == "cpu":
            raise BackendError(
                f"{path}: TensorRT runs on a GPU, and the device is 'cpu'. Use the .onnx that the "
                "plan was built from, which ONNX Runtime runs"
            )
        from .gpu.opening import open_tensorrt

        return open_tensorrt(path, options, meter)
    if device.startswith("cuda") or (device == "auto" and _choose_cuda()):
        from .gpu.opening import open_onnx

        return open_onnx(path, options, meter)
    host = OnnxRuntimeBackend(path, threads=options.threads, spinning=options.spinning)
    return HostRunner(
        host, frontend=options.frontend(host.spec), threads=options.threads, meter=meter
    )


def _choose_cuda() -> bool:
    """Whether ``auto`` means the GPU; logs what it chose and why."""
    reason = cuda_missing()
    if reason is None:
        logger.info("device auto: cuda:0, through onnxruntime's CUDA provider")
        return True
    logger.info("device auto: cpu, since %s", reason)
    return False
