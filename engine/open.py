"""From a path to the runner of its artifact: the CPU's, or a GPU's on TensorRT or ONNX Runtime."""

import logging
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from ..artifact import takes_samples
from ..errors import ArtifactError, BackendError
from ..spec import Spec
from .cpu import CpuRunner
from .onnx import OnnxNetwork, cuda_missing
from .runner import Runner
from .stats import Meter
from .waveform import WaveformRunner

logger = logging.getLogger(__name__)

BackendName = Literal["onnxruntime", "tensorrt"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``Engine`` was asked for, see there."""

    device: str
    backend: str | None
    contexts: int
    threads: int
    spinning: bool
    memory_limit: int | None
    normalization: tuple[float, float] | None

    def normalized(self, spec: Spec) -> Spec:
        """The spec with the mean and standard deviation that were asked for.

        Raises:
            ValueError: its frontend does not normalise, or they are no mean and deviation.
        """
        if self.normalization is None:
            return spec
        mean, std = self.normalization
        if spec.frontend.std is None:
            raise ValueError(
                f"normalization is {(mean, std)}, and the {spec.frontend.preset} frontend does not "
                "normalise its log-mel: leave it out"
            )
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ValueError(f"normalization is {(mean, std)}, expected a mean and a std above 0")
        return replace(spec, frontend=replace(spec.frontend, mean=float(mean), std=float(std)))


def open_runner(path: Path, options: Options, meter: Meter) -> Runner:
    """Open an artifact on the device and with the library that the caller or its suffix names.

    Raises:
        ArtifactError: missing, damaged, of an unknown kind, or no spec.
        BackendError: the library or the device is missing, or a plan is for another of either.
        ValueError: a device or backend that does not exist, or a normalisation that does not fit.
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
    if takes_samples(path):
        return _open_waveform(path, options, meter)
    if path.suffix == ".plan" or backend == "tensorrt":
        if backend == "onnxruntime":
            raise ValueError(f"backend is 'onnxruntime', and {path} is a plan of TensorRT")
        if device == "cpu":
            raise BackendError(
                f"{path}: TensorRT runs on a GPU, and the device is 'cpu'. Use the .onnx that the "
                "plan was built from, which ONNX Runtime runs"
            )
        from .open_gpu import open_tensorrt

        return open_tensorrt(path, options, meter)
    if device.startswith("cuda") or (device == "auto" and _choose_cuda()):
        from .open_gpu import open_onnx

        return open_onnx(path, options, meter)
    network = OnnxNetwork(path, threads=options.threads, spinning=options.spinning)
    spec = options.normalized(network.spec)
    return CpuRunner(network, spec, threads=options.threads, meter=meter)


def _open_waveform(path: Path, options: Options, meter: Meter) -> WaveformRunner:
    if options.backend == "tensorrt" or options.device.startswith("cuda"):
        raise BackendError(
            f"{path}: a waveform artifact runs on the CPU here, and device={options.device!r}, "
            f"backend={options.backend!r} were asked for. For a GPU export the model without "
            "--waveform: there the frontend and the fusion are kernels"
        )
    if options.normalization is not None:
        raise ValueError(
            f"normalization is {options.normalization}, and a waveform artifact has its own in "
            "its graph: leave it out"
        )
    if options.device == "auto":
        logger.info("device auto: cpu, since %s is a waveform artifact", path)
    network = OnnxNetwork(path, threads=options.threads, spinning=options.spinning)
    return WaveformRunner(network, network.spec, meter=meter)


def _choose_cuda() -> bool:
    """Whether ``auto`` means the GPU; logs what it chose and why."""
    reason = cuda_missing()
    if reason is None:
        logger.info("device auto: cuda:0, through onnxruntime's CUDA provider")
        return True
    logger.info("device auto: cpu, since %s", reason)
    return False
