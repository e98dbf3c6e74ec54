"""Opening an artifact on a GPU: a module of its own, so that on a CPU none of it is loaded."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BackendError
from .cuda.cuda_network import CudaNetwork
from .cuda.cuda_runner import CudaRunner
from .cuda.driver import Cuda
from .cuda.kernels import Kernels
from .cuda.onnx_network import OnnxCudaNetwork, cuda_providers, preload_cuda_libraries
from .cuda.tensorrt_network import TensorRTNetwork, deserialize
from .devices import GpuInfo, find_gpu
from .integrity import Check
from .onnx import cuda_missing
from .stats import Meter
from .tensorrt import cached_plan, library_for, preflight
from .tensorrt.runtime_cache import RuntimeCache, runtime_cache_path

if TYPE_CHECKING:
    from .open import Options

logger = logging.getLogger(__name__)


def open_onnx(path: Path, options: "Options", meter: Meter) -> CudaRunner:
    """An `.onnx` on ONNX Runtime's CUDA provider.

    Raises:
        ArtifactError: missing, damaged, or no spec.
        BackendError: no GPU, or an onnxruntime, CUDA or cuDNN that cannot use it.
    """
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


def open_tensorrt(path: Path, options: "Options", meter: Meter) -> CudaRunner:
    """A plan, or an `.onnx` that becomes one in the user's cache.

    Raises:
        ArtifactError: missing, damaged, or no spec.
        BackendError: no GPU, no TensorRT, or a plan for another of either.
    """
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
    library = library_for(gpu, info.runtime)

    def load(cuda: Cuda) -> CudaNetwork:
        data, rebuild = plan.read_bytes(), info.rebuild_command
        runtime, engine = deserialize(library, data, str(plan), rebuild)
        compiled = None
        if library.is_rtx:
            compiled = RuntimeCache(runtime_cache_path(plan.name, data, library, gpu))
        return TensorRTNetwork(
            library,
            runtime,
            engine,
            info.spec,
            network_input=info.input,
            rebuild=rebuild,
            compiled=compiled,
        )

    return _on_gpu(gpu, load, options, meter)


def _on_gpu(
    gpu: GpuInfo, load: Callable[[Cuda], CudaNetwork], options: "Options", meter: Meter
) -> CudaRunner:
    cuda = Cuda(gpu)
    with cuda.current(), ExitStack() as undo:
        undo.callback(cuda.close)
        network = load(cuda)
        undo.callback(network.close)
        spec = options.normalized(network.spec)
        runner = CudaRunner(
            cuda,
            network,
            Kernels(spec, network.input),
            spec,
            contexts=options.contexts,
            memory_limit=options.memory_limit,
            meter=meter,
        )
        undo.pop_all()
    return runner
