"""A TensorRT whose engines run on ONNX Runtime, with the names that the runtime uses."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from fusion_engine.engine.network_input import LOG_MEL

from .double import DTYPES, view

TRT_NAMES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
SCRATCH = 12_345


class TensorRT:
    """The module. A plan is the bytes of an ONNX file.

    Args:
        dtype: of the layer outputs.
        channels_last: maps are HWC8, else linear.
        network_input: what the network takes.
        profiles: (least, common, most) shapes of ``log_mel`` each.
        rtx: with the names that only TensorRT for RTX has; capturable as ``capturable`` says.
        cache_adds: whether its runtime cache keeps what it holds when another one is read.

    Attributes:
        compiled: shapes that kernels were compiled for.
    """

    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")

    def __init__(
        self,
        machine,
        *,
        dtype="float32",
        channels_last=False,
        network_input=LOG_MEL,
        profiles=None,
        rtx=False,
        cache_adds=True,
    ):
        self.rtx, self.cache_adds, self.compiled = rtx, cache_adds, 0
        self.machine, self.dtype, self.channels_last = machine, dtype, channels_last
        self.network_input, self.profiles = network_input, profiles
        self.capturable = True
        self.contexts = 0
        self.delay = 0.0
        if rtx:
            self.CudaGraphStrategy = SimpleNamespace(DISABLED="off")
            self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: Engine(self, plan))


class Engine:
    def __init__(self, trt: TensorRT, plan: bytes) -> None:
        import onnxruntime

        self.trt, self.session = trt, onnxruntime.InferenceSession(plan)
        log_mel, *more = self.session.get_inputs()
        self.inputs = ["log_mel", *(node.name for node in more)]
        self.names = [*self.inputs, *(node.name for node in self.session.get_outputs())]
        self.num_io_tensors = len(self.names)
        _, _, frames, mels = log_mel.shape
        fixed = isinstance(frames, int)
        least, most = (frames, frames) if fixed else (32, 6001)
        default = [((1, 1, least, mels), (8, 1, least, mels), (32, 1, most, mels))]
        self.profiles = trt.profiles or default
        self.num_optimization_profiles = len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        nodes = [*self.session.get_inputs(), *self.session.get_outputs()]
        shape = nodes[self.names.index(name)].shape
        return tuple(size if isinstance(size, int) else -1 for size in shape)

    def get_tensor_profile_shape(self, name: str, index: int) -> Any:
        assert name == "log_mel"
        return self.profiles[index]

    def get_tensor_dtype(self, name: str) -> Any:
        if name == "log_mel":
            return SimpleNamespace(name=TRT_NAMES[self.trt.network_input.dtype])
        return SimpleNamespace(name=TRT_NAMES[self.trt.dtype])

    def get_tensor_format(self, name: str, profile: int) -> Any:
        outputs = {node.name: node for node in self.session.get_outputs()}
        rank = len(outputs[name].shape)
        return SimpleNamespace(name="HWC8" if self.trt.channels_last and rank == 4 else "LINEAR")

    def create_runtime_config(self) -> Any:
        chosen = SimpleNamespace()
        chosen.set_execution_context_allocation_strategy = lambda s: setattr(chosen, "memory", s)
        chosen.create_runtime_cache = lambda: RuntimeCache(self.trt)
        chosen.set_runtime_cache = lambda cache: setattr(chosen, "cache", cache)
        return chosen

    def create_execution_context(self, chosen: Any) -> Any:
        if hasattr(self.trt, "CudaGraphStrategy"):
            assert (chosen.memory, chosen.cuda_graph_strategy) == ("user", "off")
        else:
            assert chosen == "user"
        self.trt.contexts += 1
        context = Context(self)
        if hasattr(self.trt, "CudaGraphStrategy"):
            context.is_stream_capturable = lambda handle: self.trt.capturable
            context.cache = chosen.cache
        return context


class RuntimeCache:
    """Compiled kernels, each the line of its shape after a line that all have."""

    head = "kernels of the double"

    def __init__(self, trt: TensorRT) -> None:
        self.trt = trt
        self.kernels: set[str] = set()

    def serialize(self) -> memoryview:
        return memoryview("\n".join([self.head, *sorted(self.kernels)]).encode())

    def deserialize(self, blob: bytes) -> bool:
        head, *kernels = bytes(blob).decode().split("\n")
        if head != self.head:
            return False
        self.kernels = {*kernels, *(self.kernels if self.trt.cache_adds else ())}
        return True

    def compile(self, kernel: str) -> None:
        self.trt.compiled += kernel not in self.kernels
        self.kernels.add(kernel)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.machine = engine, engine.trt.machine
        self.addresses: dict[str, int] = {}
        self.scratch = (0, 0)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.active_optimization_profile = 0
        self.cache: RuntimeCache | None = None

    def __del__(self) -> None:
        self.engine.trt.contexts -= 1

    def set_optimization_profile_async(self, index: int, handle: int) -> bool:
        assert self.machine.streams[handle].open
        self.active_optimization_profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name == "valid_frames":
            self.shapes[name] = shape
            return True
        least, _, most = self.engine.profiles[self.active_optimization_profile]
        if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            return False
        feed = {name: np.zeros((1, *shape[1:]), np.float32)}
        if "valid_frames" in self.engine.inputs:
            feed["valid_frames"] = np.full(1, shape[2], np.int32)
        outputs = self.engine.session.run(None, feed)
        names = self.engine.names[len(self.engine.inputs) :]
        self.shapes = {n: (shape[0], *x.shape[1:]) for n, x in zip(names, outputs, strict=True)}
        self.shapes[name] = shape
        self.addresses.clear()
        self.scratch = (0, 0)
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def update_device_memory_size_for_shapes(self) -> int:
        return SCRATCH * self.shapes["log_mel"][0]

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        self.scratch = (memory, size)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory % 256 == 0
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, handle: int) -> bool:
        addresses, shapes, scratch = dict(self.addresses), dict(self.shapes), self.scratch
        assert set(addresses) == set(shapes)
        assert scratch[1] == self.update_device_memory_size_for_shapes()
        if self.cache is not None:
            self.cache.compile(f"{self.active_optimization_profile} {shapes['log_mel']}")
        self.machine.queue(handle, lambda: self._run(addresses, shapes, scratch))
        return True

    def _run(self, addresses: Any, shapes: Any, scratch: tuple[int, int]) -> None:
        machine, trt = self.machine, self.engine.trt
        with machine.lock:
            machine.running += 1
            machine.most_running = max(machine.most_running, machine.running)
        time.sleep(trt.delay)
        view(scratch[0], np.uint8, scratch[1]).fill(0x5A)  # it is ours alone
        log_mel = view(addresses["log_mel"], DTYPES[trt.network_input.dtype], *shapes["log_mel"])
        feed = {"log_mel": log_mel.astype(np.float32)}
        if "valid_frames" in addresses:
            assert addresses["valid_frames"]
            feed["valid_frames"] = view(
                addresses["valid_frames"], np.int32, *shapes["valid_frames"]
            ).copy()
        outputs = self.engine.session.run(None, feed)
        names = self.engine.names[len(self.engine.inputs) :]
        for name, x in zip(names, outputs, strict=True):
            x = x.astype(DTYPES[trt.dtype])
            if trt.channels_last and x.ndim == 4:
                x = x.transpose(0, 2, 3, 1)
                padding = -x.shape[3] % 8
                x = np.pad(x, [(0, 0)] * 3 + [(0, padding)], constant_values=77)
            view(addresses[name], DTYPES[trt.dtype], x.size)[:] = x.reshape(-1)
        with machine.lock:
            machine.running -= 1
