"""The network in PyTorch, for GPUs that have no TensorRT: capture, ordering, kernels and latency
are tested and measured with it, in the place where a plan's network is.

Its arithmetic is the adapters' own, on the artifact's tensors in channels_last. Where PyTorch
runs, it puts what it computes into memory of its own allocator: uncaptured runs into the common
cache, captured ones into a pool of the context, which keeps the graph's addresses from all others
until the graph is gone.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import onnx
import torch
from onnx import helper, numpy_helper
from torch.overrides import TorchFunctionMode

import fusion_engine as fe
from fusion_engine.artifact import read_spec
from fusion_engine.engine import open_gpu
from fusion_engine.engine.cuda.cuda_network import (
    Context,
    CudaNetwork,
    LayerTensor,
    TensorLayout,
)
from fusion_engine.engine.cuda.driver import Cuda, Stream
from fusion_engine.engine.network import check_outputs
from fusion_engine.errors import AudioError, BackendError
from fusion_engine.export import resolve
from fusion_engine.export.checkpoint import load_weights
from fusion_engine.export.exporter import _spec, input_frames
from fusion_engine.spec import METADATA_KEY

Precision = Literal["fp32", "fp16", "bf16"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Of log-mel in one run, all inputs together: 128 clips of 10 s.
MOST_FRAMES = 1 << 17

# PyTorch's allocator gives nothing back while any thread captures into a pool: it fails instead.
# Reentrant, since the garbage collector may close an engine anywhere.
_allocator = threading.RLock()


class CastAtConvolutions(TorchFunctionMode):
    """A convolution takes its input in its weights' type: what comes before the first is FP32."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.conv2d:
            x, weight, *rest = args
            args = (x.to(weight.dtype), weight, *rest)
        return func(*args, **(kwargs or {}))


class DeviceArray:
    """Float32 memory of somebody else, for ``torch.as_tensor``."""

    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": shape,
            "typestr": "<f4",
            "version": 3,
        }


class TorchNetwork(CudaNetwork):
    """An `.onnx` artifact of a model that has an adapter, run by PyTorch.

    Args:
        path: the artifact; its tensors and its spec are read, not its graph.
        precision: of the tensors and the layer outputs; ``Backbone.fp32_tensors`` stay FP32.
        device: PyTorch's name of it.

    Raises:
        ArtifactError: it has no spec.
        ExportError: a model without an adapter.
    """

    concurrency = None

    def __init__(self, path: Path, precision: Precision = "fp16", device: str = "cuda:0") -> None:
        self.spec = replace(read_spec(path), precision=precision)
        self.name = f"pytorch-{precision} {torch.__version__}"
        self.device = torch.device(device)
        self.min_frames, self.max_frames = self.spec.min_frames, self.spec.max_frames
        self._layers = [layer.number for layer in self.spec.layers]
        self._backbone = copy.copy(resolve(self.spec.model))
        self._backbone.token = self.spec.token
        self._backbone.layer_norm_eps = self.spec.layer_norm_eps
        self._tensors: dict[str, torch.Tensor] = {}
        for tensor in onnx.load(path).graph.initializer:
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy()).to(self.device)
            if value.is_floating_point() and not tensor.name.startswith(
                self._backbone.fp32_tensors
            ):
                value = value.to(DTYPES[precision])
            if value.ndim == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            self._tensors[tensor.name] = value
        if self.device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            torch.cuda.synchronize(self.device)  # the contexts have streams of their own

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Layer outputs in the spec's order for FP32 log-mel [S, 1, T, M]; maps are NHWC."""
        with torch.inference_mode(), CastAtConvolutions():
            return self._backbone.forward(self._tensors, log_mel, self._layers)

    def segments_per_run(self, frames: int) -> int:
        if frames < self.min_frames:
            raise AudioError(f"{frames} frames, expected at least {self.min_frames}")
        return max(1, MOST_FRAMES // frames)

    def stream(self, cuda: Cuda) -> Stream:
        return cuda.stream()

    def context(self) -> Context:
        return TorchContext(self)

    def close(self) -> None:
        self._tensors.clear()
        empty_cache()


def empty_cache() -> None:
    """Give the system what PyTorch holds and nobody uses."""
    with _allocator:
        torch.cuda.empty_cache()


class TorchContext(Context):
    """Runs on the stream that it is given; its memory is PyTorch's."""

    def __init__(self, network: TorchNetwork) -> None:
        self._network = network
        self._shape: tuple[int, ...] = ()
        self._input = torch.empty(0)
        self._outputs: tuple[torch.Tensor, ...] = ()
        self._pool: Any = None  # of the graph's memory

    def prepare(self, segments: int, frames: int, stream: Stream) -> Sequence[int]:
        self._shape = (segments, 1, frames, self._network.spec.frontend.n_mels)
        self._input = torch.empty(0)
        self._release()  # no graph uses it any more
        return ()

    def attach(self, addresses: Sequence[int]) -> None:
        pass

    def enqueue(self, log_mel: int, stream: Stream, valid: int = 0) -> Sequence[LayerTensor]:
        if self._input.data_ptr() != log_mel:
            self._input = self.view(log_mel)
        with self._on(stream):
            self._outputs = self._run(self._input)
        return [
            LayerTensor(
                x.data_ptr(),
                TensorLayout(
                    str(x.dtype).removeprefix("torch."), tuple(x.shape), x.stride(), x.numel()
                ),
            )
            for x in self._outputs
        ]

    def capturable(self, stream: Stream) -> bool:
        # What cuDNN chooses and prepares is each thread's own, and this is the one that captures.
        self._release()
        with self._on(stream):
            self._run(torch.zeros(self._shape, device=self._network.device))
        stream.synchronize()
        empty_cache()  # of what the runs until now took, which the graph will not
        self._pool = self.pool()
        return True

    def close(self) -> None:
        self._release()
        empty_cache()  # its blocks are of a stream that is closed

    def view(self, address: int) -> torch.Tensor:
        """Log-mel where it is."""
        return torch.as_tensor(DeviceArray(address, self._shape), device=self._network.device)

    def pool(self) -> Any:
        """Memory for one graph."""
        with torch.cuda.device(self._network.device):
            return torch.cuda.MemPool()

    def _release(self) -> None:
        with _allocator:
            self._outputs, self._pool = (), None

    @contextmanager
    def _on(self, stream: Stream) -> Iterator[None]:
        """PyTorch's work goes to ``stream``, and that of a capture into the pool."""
        device = self._network.device
        with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle, device=device)):
            if not torch.cuda.is_current_stream_capturing():
                yield
                return
            with _allocator, torch.cuda.use_mem_pool(self._pool):
                yield

    def _run(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, ...]:
        try:
            outputs = self._network.forward(log_mel)
        except RuntimeError as error:  # memory that ran out is one of them
            raise BackendError(f"PyTorch failed on log-mel {list(self._shape)}: {error}") from error
        check_outputs(self._network.spec, self._shape, [tuple(x.shape) for x in outputs])
        return outputs


def open_with_torch(
    path: Path,
    precision: Precision = "fp16",
    *,
    network: Callable[..., TorchNetwork] = TorchNetwork,
    **options: Any,
) -> fe.Engine:
    """An engine on the first GPU, in every part the product's, whose network is PyTorch's."""

    def open_runner(path: Path, options: Any, meter: Any) -> Any:
        def load(cuda: Cuda) -> TorchNetwork:
            return network(path, precision, f"cuda:{cuda.info.index}")

        return open_gpu._on_gpu(open_gpu.find_gpu(options.device), load, options, meter)

    with mock.patch("fusion_engine.engine.engine.open_runner", open_runner):
        return fe.Engine(path, device="cuda", **options)


def write_weights(
    path: Path, model: str, *, weights: str = "random:0", seconds: float | None = None
) -> Path:
    """The tensors and the spec of ``export`` with these arguments, for this network alone.

    It needs neither onnxscript nor onnxruntime, and takes seconds.
    """
    backbone = resolve(model)
    backbone = backbone.configured(
        frames=input_frames(backbone.frontend, seconds, None), token=None
    )
    layers = backbone.default_layers
    state, source = load_weights(backbone, weights)
    backbone = backbone.for_checkpoint(state)
    folded = backbone.fold(backbone.check_state(state, layers))
    tensors = [numpy_helper.from_array(value.numpy(), name) for name, value in folded.items()]
    graph = helper.make_model(helper.make_graph([], model, [], [], tensors))
    helper.set_model_props(graph, {METADATA_KEY: _spec(backbone, layers, source).to_json()})
    onnx.save(graph, path)
    return path
