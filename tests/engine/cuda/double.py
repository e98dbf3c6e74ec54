"""A GPU in host memory: the runtime's own code runs on it, address by address.

Device memory is NumPy buffers at real addresses with a guard after each, streams run at once,
capture records what was queued, and the kernels are the CUDA algorithms built for the host.
"""

import ctypes
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np

from fusion_engine import _core
from fusion_engine.engine.cuda import dlpack
from fusion_engine.engine.cuda.cuda_network import LayerTensor
from fusion_engine.engine.cuda.driver import Cuda, Graph, Memory, OutOfMemory, Pinned, Stream
from fusion_engine.engine.cuda.kernels import Kernels
from fusion_engine.engine.devices import GpuInfo

GPU = GpuInfo(
    index=0,
    name="Host Double",
    compute_capability=(9, 0),
    total_memory=2**33,
    multiprocessors=4,
    driver="13.0",
)
GUARD = 512
ALIGNMENT = 512
# What a large GPU runs at once.
TARGET_THREADS = 1 << 17
UNWRITTEN, FREED, GUARDED = 0xFF, 0xFB, 0xA5


class Machine:
    """What the doubles of one test share, and what it may look at.

    Attributes:
        capacity: bytes of device memory.
        used: bytes allocated now.
        peak: the most that were.
        streams: open streams.
        graphs: open graphs.
        waits: (waiting stream's handle, recorded stream's handle) of every wait.
        running: leases that run a backbone now, and ``most_running`` at any time.
        kind: DLPack's kind of the device: consumers on the host take its arrays.
    """

    kind = dlpack.CPU

    def __init__(self) -> None:
        self.capacity = 2**32
        self.blocks: dict[int, tuple[np.ndarray, int]] = {}
        self.pinned: dict[int, np.ndarray] = {}
        self.used = self.peak = 0
        self.streams: dict[int, CoreStream] = {}
        self.graphs: set[int] = set()
        self.waits: list[tuple[int, int]] = []
        self.lock = threading.Lock()
        self.here = threading.local()
        self.next_handle = 0x1000
        self.running = self.most_running = 0

    def take(self, size: int) -> int:
        with self.lock:
            if self.used + size > self.capacity:
                raise OutOfMemory(size, "device")
            self.used += size
            self.peak = max(self.peak, self.used)
        block = np.full(size + GUARD + ALIGNMENT, UNWRITTEN, np.uint8)
        address = -(-block.ctypes.data // ALIGNMENT) * ALIGNMENT
        offset = address - block.ctypes.data
        block[offset + size :] = GUARDED
        self.blocks[address] = (block, size)
        return address

    def give(self, address: int) -> None:
        block, size = self.blocks.pop(address)
        offset = address - block.ctypes.data
        assert (block[offset + size :] == GUARDED).all(), "somebody wrote past the memory"
        block[:] = FREED
        with self.lock:
            self.used -= size

    def queue(self, handle: int, work: Callable[[], None]) -> None:
        """Run at once, or record where this thread captures the stream."""
        assert getattr(self.here, "depth", 0) > 0, "CUDA was called outside of current()"
        assert self.streams[handle].open
        capture = getattr(self.here, "capture", None)
        if capture is None:
            work()
        else:
            assert capture[0] == handle, "captured work went to another stream"
            capture[1].append(work)

    def synchronizing(self) -> None:
        assert getattr(self.here, "capture", None) is None, "a wait of the host was captured"


class CoreStream:
    def __init__(self, machine: Machine) -> None:
        self.machine, self.open = machine, True
        with machine.lock:
            machine.next_handle += 16
            self.handle = machine.next_handle
        machine.streams[self.handle] = self

    def sync(self) -> None:
        assert self.open
        self.machine.synchronizing()

    def close(self) -> None:
        assert self.open
        self.open = False


# Of the driver, as native code calls them.
PUSH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
POP = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_void_p))
COPY = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p
)
LAUNCH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
SYNCHRONIZE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
NAME = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))
CONTEXT, ERROR = 0xC0, 719


class NativeDriver:
    """What native code calls of the driver, in the thread that calls it.

    Attributes:
        fails: the function that returns ``ERROR``, if any.
        copies: target, source and bytes of each copy to the device.
        launches: what a launch does, by the graph's handle.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine, self.launches = machine, dict[int, Callable[[int], None]]()
        self.fails: str | None = None
        self.copies: list[tuple[int, int, int]] = []
        # Callbacks live as long as their addresses are known.
        self.functions = {
            "cuCtxPushCurrent": PUSH(self.push),
            "cuCtxPopCurrent": POP(self.pop),
            "cuMemcpyHtoDAsync": COPY(self.copy),
            "cuGraphLaunch": LAUNCH(self.launch),
            "cuStreamSynchronize": SYNCHRONIZE(self.synchronize),
            "cuGetErrorName": NAME(self.error_name),
        }
        self.native = self.bind()

    def bind(self) -> _core.Driver:
        """The functions as native code takes them."""
        return _core.Driver(
            **{
                name: ctypes.cast(function, ctypes.c_void_p).value
                for name, function in self.functions.items()
            }
        )

    def push(self, context: int) -> int:
        if context != CONTEXT or self.fails == "cuCtxPushCurrent":
            return ERROR
        self.machine.here.depth = getattr(self.machine.here, "depth", 0) + 1
        return 0

    def pop(self, context: Any) -> int:
        self.machine.here.depth -= 1
        return 0

    def copy(self, target: int, source: int, size: int, stream: int) -> int:
        if self.fails == "cuMemcpyHtoDAsync" or self.machine.here.depth < 1:
            return ERROR
        assert self.machine.streams[stream].open
        ctypes.memmove(target, source, size)
        self.copies.append((target, source, size))
        return 0

    def launch(self, graph: int, stream: int) -> int:
        try:
            self.launches[graph](stream)
        except BaseException:
            traceback.print_exc()
            return ERROR
        return ERROR if self.fails == "cuGraphLaunch" else 0

    def synchronize(self, stream: int) -> int:
        failed = self.fails == "cuStreamSynchronize" or not self.machine.streams[stream].open
        return ERROR if failed else 0

    def error_name(self, error: int, name: Any) -> int:
        name[0] = b"CUDA_ERROR_LAUNCH_FAILED"
        return 0


class HostGraph(Graph):
    def __init__(
        self, machine: Machine, work: list[Callable[[], None]], stream: Stream, driver: NativeDriver
    ) -> None:
        self.machine, self.work, self.recorded_on = machine, work, stream
        machine.graphs.add(id(self))
        self._launches = driver.launches
        self._launches[id(self)] = self._launched
        self.handle = id(self)

    def _launched(self, handle: int) -> None:
        assert self.machine.here.depth > 0, "a graph was launched outside of its context"
        assert handle == self.recorded_on.handle
        self.launch(self.recorded_on)

    def launch(self, stream: Stream) -> None:
        assert stream.core.open
        assert id(self) in self.machine.graphs
        for step in self.work:
            step()

    def close(self) -> None:
        self.machine.graphs.remove(id(self))
        del self._launches[id(self)]


class HostCuda(Cuda):
    """The double of ``Cuda``; every method checks that it may be called."""

    def __init__(self, machine: Machine, info: GpuInfo = GPU) -> None:
        self.info, self.machine = info, machine
        self.driver = NativeDriver(machine)
        self.closed = False

    @contextmanager
    def current(self) -> Iterator[None]:
        here = self.machine.here
        here.depth = getattr(here, "depth", 0) + 1
        try:
            yield
        finally:
            here.depth -= 1

    def stream(self) -> Stream:
        self.machine.synchronizing()
        assert self.machine.here.depth > 0
        return Stream(CoreStream(self.machine))

    def native(self, stream: Stream) -> _core.Stream:
        return _core.Stream(self.driver.native, context=CONTEXT, handle=stream.handle)

    def allocate(self, size: int, stream: Stream) -> Memory:
        self.machine.synchronizing()
        assert stream.core.open
        address = self.machine.take(size)
        return Memory(self, address, size)

    def pinned(self, size: int) -> Pinned:
        self.machine.synchronizing()
        block = np.full(size, UNWRITTEN, np.uint8)
        address = block.ctypes.data
        self.machine.pinned[address] = block
        return Pinned(address, size, lambda: self.machine.pinned.pop(address))

    def copy(self, target: int, source: int, size: int, stream: Stream) -> None:
        self.machine.queue(stream.handle, lambda: ctypes.memmove(target, source, size))

    def fill(self, target: int, word: int, count: int, stream: Stream) -> None:
        self.machine.queue(stream.handle, lambda: view(target, np.uint32, count).fill(word))

    def record(self, stream: Stream) -> Any:
        assert stream.core.open
        return stream.handle

    def wait(self, handle: int, event: Any) -> None:
        assert self.machine.here.depth > 0
        self.machine.waits.append((handle, event))

    def wait_for_stream(self, stream: Stream, handle: int) -> None:
        self.machine.waits.append((stream.handle, handle))

    @property
    def dlpack_device(self) -> tuple[int, int]:
        return self.machine.kind, 0

    def device_of(self, address: int) -> int:
        return 0

    def ready(self, event: Any) -> None:
        self.machine.synchronizing()

    def publish(self, event: Any) -> int:
        self.machine.waits.append((7, event))
        return 7

    def memory(self) -> tuple[int, int]:
        return self.machine.capacity - self.machine.used, self.machine.capacity

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        steps: list[Callable[[], None]] = []
        self.machine.here.capture = (stream.handle, steps)
        try:
            work()
        finally:
            self.machine.here.capture = None
        return HostGraph(self.machine, steps, stream, self.driver)

    def free(self, address: int, stream: Stream) -> None:
        assert stream.core.open
        self.machine.give(address)

    def free_later(self, address: int, last: Any, source: Any) -> None:
        self.machine.give(address)

    def trim(self) -> None:
        self.machine.synchronizing()

    def close(self) -> None:
        self.closed = True


def view(address: int, dtype: Any, *shape: int) -> np.ndarray:
    """An array of memory at an address."""
    count = int(np.prod(shape, dtype=np.int64))
    size = count * np.dtype(dtype).itemsize
    raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return raw.view(dtype).reshape(shape)


DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def layer_view(tensor: LayerTensor) -> np.ndarray:
    layout = tensor.layout
    values = view(tensor.address, DTYPES[layout.dtype], layout.elements)
    strides = [stride * values.itemsize for stride in layout.strides]
    return np.lib.stride_tricks.as_strided(values, layout.shape, strides)


class HostKernels(Kernels):
    """The CUDA algorithms on host memory."""

    def __init__(self, machine: Machine, *arguments: Any) -> None:
        self._machine = machine
        super().__init__(*arguments)

    def require(self) -> None:
        pass

    def log_mel(self, *, tables, samples, dtype, clips, stride, lengths, frames, least=0, out,
                out_frames, flags, stream):  # fmt: skip
        assert tables % 16 == out % 4 == 0

        def work() -> None:
            assert view(tables, np.uint8, len(self.tables)).tobytes() == self.tables.tobytes()
            result = _core.log_mel_on_host_grid(
                self._frontend,
                view(samples, dtype, clips, stride),
                frames=frames,
                least=least,
                lengths=view(lengths, np.int64, clips),
                out_frames=out_frames,
                flags=view(flags, np.uint32, clips),
            )
            view(out, result.dtype, *result.shape)[:] = result

        self._machine.queue(stream.handle, work)

    def fuse(self, layers, *, clips, ranges, head, embedding, flags, stream):
        layers = list(layers)

        def work() -> None:
            outputs = [layer_view(layer) for layer in layers]
            result, bad = _core.fuse(
                outputs,
                self._pools,
                head=head,
                target_threads=TARGET_THREADS,
                **arrays(ranges, clips, len(outputs[0])),
            )
            view(embedding, np.float32, *result.shape)[:] = result
            view(flags, np.uint32, clips)[:] |= bad

        self._machine.queue(stream.handle, work)

    def accumulate(self, layers, *, ranges, state, frames, stream):
        layers = list(layers)

        def work() -> None:
            outputs = [layer_view(layer) for layer in layers]
            dim = sum(x.shape[1] * (x.shape[3] if x.ndim == 4 else 1) for x in outputs)
            where = {}
            if frames is not None:
                where["frames"] = view(frames.address, np.float32, 1, dim, frames.total)
                where["frame_offsets"] = view(frames.offset, np.int64, 1)
            _core.accumulate(
                outputs,
                self._pools,
                **arrays(ranges, 1, len(outputs[0])),
                **state_views(state, dim),
                flags=view(state.flags, np.uint32, 1),
                target_threads=TARGET_THREADS,
                **where,
            )

        self._machine.queue(stream.handle, work)

    def finalize(self, *, dim, state, head, embedding, stream):
        def work() -> None:
            result = _core.finalize(**state_views(state, dim), head=head)
            view(embedding, np.float32, 1, dim)[:] = result

        self._machine.queue(stream.handle, work)


def arrays(ranges: Any, clips: int, segments: int) -> dict[str, np.ndarray]:
    if ranges is None:
        return {}
    return {
        "offsets": view(ranges.offsets, np.int64, clips + 1),
        "begins": view(ranges.begins, np.int64, segments),
        "counts": view(ranges.counts, np.int64, segments),
    }


def state_views(state: Any, dim: int) -> dict[str, np.ndarray]:
    names = ("sum", "compensation", "max")
    views = {name: view(getattr(state, name), np.float32, 1, dim) for name in names}
    return {**views, "count": view(state.count, np.float32, 1)}
