"""Opening an artifact on a GPU."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ...errors import BackendError
from ..backends.onnx_runtime import cuda_missing
from ..integrity import Check
from ..options import Options
from ..stats import Meter
from ..tensorrt import cached_plan, import_tensorrt, preflight
from .backbone import Backbone
from .cuda import Cuda
from .device import GpuInfo, find_gpu
from .kernels import Kernels
from .onnx import OnnxBackbone, cuda_providers, preload_cuda_libraries
from .runner import GpuRunner
from .tensorrt import TensorRTBackbone, deserialize

logger = logging.getLogger(__name__)


def open_onnx(path: Path, options: Options, meter: Meter) -> GpuRunner:
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

    def load(cuda: Cuda) -> Backbone:
        preload_cuda_libraries()
        stream = cuda.stream()
        try:
            return OnnxBackbone(
                path,
                stream=stream,
                device=("cuda", gpu.index),
                providers=cuda_providers(gpu.index, stream.handle),
            )
        except BaseException:
            stream.close()
            raise

    return _open(gpu, load, options, meter)


def open_tensorrt(path: Path, options: Options, meter: Meter) -> GpuRunner:
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
    library = import_tensorrt(info.runtime)

    def load(cuda: Cuda) -> Backbone:
        runtime, engine = deserialize(library, plan.read_bytes(), str(plan), info.rebuild_command)
        return TensorRTBackbone(library, runtime, engine, info.spec, rebuild=info.rebuild_command)

    return _open(gpu, load, options, meter)


def _open(
    gpu: GpuInfo, load: Callable[[Cuda], Backbone], options: Options, meter: Meter
) -> GpuRunner:
    cuda = Cuda(gpu)
    with cuda.current(), ExitStack() as undo:
        undo.callback(cuda.close)
        backbone = load(cuda)
        undo.callback(backbone.close)
        frontend = options.frontend(backbone.spec)
        pools = [layer.time_pool for layer in backbone.spec.layers]
        runner = GpuRunner(
            cuda,
            backbone,
            Kernels(frontend, pools),
            frontend=frontend,
            contexts=options.contexts,
            memory_limit=options.memory_limit,
            meter=meter,
        )
        undo.pop_all()
    return runner
