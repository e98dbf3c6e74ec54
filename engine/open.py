"""From a path to the runner of its artifact: the CPU's, or a GPU's on TensorRT or ONNX Runtime."""

import logging
import math
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from ..errors import ArtifactError, BackendError
from ..spec import Spec
from .cpu import CpuRunner
from .cuda.cuda_network import CudaNetwork
from .cuda.cuda_runner import CudaRunner
from .cuda.driver import Cuda
from .cuda.kernels import Kernels
from .cuda.onnx_network import OnnxCudaNetwork, cuda_providers, preload_cuda_libraries
from .cuda.tensorrt_network import TensorRTNetwork, deserialize
from .devices import GpuInfo, find_gpu
from .integrity import Check
from .onnx import OnnxNetwork, cuda_missing
from .runner import Runner
from .stats import Meter
from .tensorrt import cached_plan, import_tensorrt, preflight

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
    if path.suffix == ".plan" or backend == "tensorrt":
        if backend == "onnxruntime":
            raise ValueError(f"backend is 'onnxruntime', and {path} is a plan of TensorRT")
        if device == "cpu":
            raise BackendError(
                f"{path}: TensorRT runs on a GPU, and the device is 'cpu'. Use the .onnx that the "
                "plan was built from, which ONNX Runtime runs"
            )
        return _open_tensorrt(path, options, meter)
    if device.startswith("cuda") or (device == "auto" and _choose_cuda()):
        return _open_onnx_on_gpu(path, options, meter)
    network = OnnxNetwork(path, threads=options.threads, spinning=options.spinning)
    spec = _normalized(network.spec, options)
    return CpuRunner(network, spec, threads=options.threads, meter=meter)


def _choose_cuda() -> bool:
    """Whether ``auto`` means the GPU; logs what it chose and why."""
    reason = cuda_missing()
    if reason is None:
        logger.info("device auto: cuda:0, through onnxruntime's CUDA provider")
        return True
    logger.info("device auto: cpu, since %s", reason)
    return False


def _open_onnx_on_gpu(path: Path, options: Options, meter: Meter) -> Runner:
    """An `.onnx` on ONNX Runtime's CUDA provider."""
    reason = cuda_missing(options.device)
    if reason is not None:
        raise BackendError(
            f"device {options.device!r}: {reason}. On a machine with an NVIDIA GPU install "
            "onnxruntime-gpu in place of onnxruntime, or ask for device='cpu'."
        )
    gpu = find_gpu(options.device)

    def load(cuda: Cuda) -> CudaNetwork:
        preload_cuda_libraries()
        stream = cuda.stream()
        try:
            return OnnxCudaNetwork(
                path,
                stream=stream,
                device=("cuda", gpu.index),
                providers=cuda_providers(gpu.index, stream.handle),
            )
        except BaseException:
            stream.close()
            raise

    return _on_gpu(gpu, load, options, meter)


def _open_tensorrt(path: Path, options: Options, meter: Meter) -> Runner:
    """A plan, or an `.onnx` that becomes one in the user's cache."""
    try:
        gpu = find_gpu(options.device)
    except BackendError as error:
        raise BackendError(
            f"{path}: TensorRT runs on a GPU only, and device {options.device!r} is none: {error}. "
            "On the CPU run the .onnx that it comes from, on ONNX Runtime."
        ) from error
    if options.device == "auto":
        logger.info("device auto: cuda:0, the first GPU, since TensorRT runs on no CPU")
    plan = path
    if path.suffix != ".plan":
        with Check(path):
            plan = cached_plan(path, gpu=gpu)
    info = preflight(plan, gpu=gpu)
    library = import_tensorrt(info.runtime)

    def load(cuda: Cuda) -> CudaNetwork:
        runtime, engine = deserialize(library, plan.read_bytes(), str(plan), info.rebuild_command)
        return TensorRTNetwork(library, runtime, engine, info.spec, rebuild=info.rebuild_command)

    return _on_gpu(gpu, load, options, meter)


def _on_gpu(
    gpu: GpuInfo, load: Callable[[Cuda], CudaNetwork], options: Options, meter: Meter
) -> Runner:
    cuda = Cuda(gpu)
    with cuda.current(), ExitStack() as undo:
        undo.callback(cuda.close)
        network = load(cuda)
        undo.callback(network.close)
        spec = _normalized(network.spec, options)
        runner = CudaRunner(
            cuda,
            network,
            Kernels(spec),
            spec,
            contexts=options.contexts,
            memory_limit=options.memory_limit,
            meter=meter,
        )
        undo.pop_all()
    return runner


def _normalized(spec: Spec, options: Options) -> Spec:
    """The spec with the mean and standard deviation that were asked for."""
    if options.normalization is None:
        return spec
    mean, std = options.normalization
    if spec.frontend.std is None:
        raise ValueError(
            f"normalization is {(mean, std)}, and the {spec.frontend.preset} frontend does not "
            "normalise its log-mel: leave it out"
        )
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ValueError(f"normalization is {(mean, std)}, expected a mean and a std above 0")
    return replace(spec, frontend=replace(spec.frontend, mean=float(mean), std=float(std)))
