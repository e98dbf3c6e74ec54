"""Memory, streams, events, copies and graphs of one GPU, on cuda-core and cuda-bindings.

Nothing else of the runtime speaks to CUDA, and the tests run it on a double of ``Cuda`` whose
device memory is host memory. Addresses and stream handles are integers.
"""

import ctypes
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ..devices import GpuInfo, check, import_cuda
from .dlpack import CUDA

# Stream handles that have a meaning of their own (CUDA, DLPack, the CUDA array interface).
LEGACY_STREAM, PER_THREAD_STREAM = 1, 2

# What native code calls; every driver that cuda-bindings runs on has them as of this version.
_NATIVE = (
    "cuCtxPushCurrent",
    "cuCtxPopCurrent",
    "cuMemcpyHtoDAsync",
    "cuGraphLaunch",
    "cuStreamSynchronize",
    "cuGetErrorName",
)
_NATIVE_VERSION = 11_040

# Whether this thread captures, on whichever GPU and for whichever engine: ``on``.
_capturing = threading.local()


def capturing() -> bool:
    """Whether the calling thread records a graph: then it may neither free nor wait."""
    return getattr(_capturing, "on", False)


class OutOfMemory(Exception):
    """An allocation of ``size`` bytes that the device or the host could not give."""

    def __init__(self, size: int, where: str) -> None:
        super().__init__(f"{size} bytes of {where} memory")
        self.size, self.where = size, where


class Stream:
    """A queue of work on the device.

    Attributes:
        core: cuda-core's stream.
        handle: ``cudaStream_t`` as an integer.
    """

    def __init__(self, core: Any, *, owned: bool = True) -> None:
        self.core, self.handle, self._owned = core, int(core.handle), owned

    def shared(self) -> "Stream":
        """The same stream, which stays open when this object is closed."""
        return Stream(self.core, owned=False)

    def synchronize(self) -> None:
        """Wait until all of its work is done."""
        self.core.sync()

    def close(self) -> None:
        """Destroy it."""
        if self._owned:
            self.core.close()


class Graph:
    """Work that was captured, to be launched as one.

    Attributes:
        handle: its ``CUgraphExec`` as an integer.
    """

    def __init__(self, driver: Any, handle: int) -> None:
        self._driver, self.handle = driver, handle

    def launch(self, stream: Stream) -> None:
        """Queue it."""
        check(self._driver.cuGraphLaunch(self.handle, stream.handle))

    def close(self) -> None:
        """Destroy it; none of its launches is under way."""
        check(self._driver.cuGraphExecDestroy(self.handle))


class Pinned:
    """Page-locked host memory: ``bytes`` is a view of it."""

    def __init__(self, address: int, size: int, close: Callable[[], None]) -> None:
        self.address, self.size, self._close = address, size, close
        memory = (ctypes.c_uint8 * size).from_address(address)
        self.bytes: NDArray[np.uint8] = np.ctypeslib.as_array(memory)

    def close(self) -> None:
        """Free it; no view of it may be used any more."""
        self._close()


class Memory:
    """Device memory. Unless it was closed, it is freed after the work that may still use it.

    Attributes:
        address: where it is.
        size: in bytes.
        last: the event of the last work of ours that uses it.
        source: what that work reads, and must outlive it.
    """

    def __init__(self, cuda: "Cuda", address: int, size: int) -> None:
        self.address, self.size = address, size
        self.last: Any = None
        self.source: Any = None
        self._cuda, self._open = cuda, True

    def close(self, stream: Stream) -> None:
        """Free it in the order of ``stream``."""
        if self._open:
            self._open = False
            self._cuda.free(self.address, stream)

    # Module globals may be gone by the end of the process, which gives all back by itself.
    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if self._open and not finalizing():
            self._open = False
            self._cuda.free_later(self.address, self.last, self.source)


def native_functions(driver: Any) -> _core.Driver:
    """The driver's functions that native code calls by address."""
    addresses = {
        name: int(check(driver.cuGetProcAddress(name.encode(), _NATIVE_VERSION, 0)))
        for name in _NATIVE
    }
    return _core.Driver(**addresses)


class Cuda:
    """One GPU. Its methods are to be called inside ``current``, but for ``current`` itself.

    Memory comes from a pool of its own, so that closing gives it back to the system.

    Raises:
        BackendError: cuda-core is missing, or CUDA fails.
        OutOfMemory: from ``allocate`` and ``pinned``.
    """

    def __init__(self, info: GpuInfo) -> None:
        self.info = info
        self._core, self._driver = import_cuda()
        before = check(self._driver.cuCtxGetCurrent())
        try:
            self._device = self._core.Device(info.index)
            self._device.set_current()
            self._context = self._device.context.handle
            self._native = native_functions(self._driver)
            self._pool = self._core.DeviceMemoryResource(
                self._device, self._core.DeviceMemoryResourceOptions()
            )
            # Frees of results go here, and consumers wait for it: see ``free_later``.
            self._results = self._device.create_stream()
        finally:
            check(self._driver.cuCtxSetCurrent(before))
        self._deferred: deque[tuple[int, Any, Any]] = deque()
        self._reading: deque[tuple[Any, Any]] = deque()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the calling thread's, and give the thread its own back."""
        check(self._driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            check(self._driver.cuCtxPopCurrent())

    def stream(self) -> Stream:
        """A new stream that does not wait for the default stream."""
        return Stream(self._device.create_stream())

    def native(self, stream: Stream) -> _core.Stream:
        """The stream as native code takes it, in any thread and without ``current``."""
        return _core.Stream(self._native, context=int(self._context), handle=stream.handle)

    def allocate(self, size: int, stream: Stream) -> Memory:
        """Device memory, aligned to 256 bytes at least, for use after this point of ``stream``."""
        self._free_deferred()
        pool = self._pool.handle
        result = self._driver.cuMemAllocFromPoolAsync(size, pool, stream.handle)
        return Memory(self, self._address(result, size, "device"), size)

    def pinned(self, size: int) -> Pinned:
        """Page-locked host memory."""
        address = self._address(self._driver.cuMemAllocHost(size), size, "pinned host")
        return Pinned(address, size, lambda: check(self._driver.cuMemFreeHost(address)))

    def _address(self, result: tuple[Any, ...], size: int, where: str) -> int:
        if result[0] == self._driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise OutOfMemory(size, where)
        return int(check(result))

    def copy(self, target: int, source: int, size: int, stream: Stream) -> None:
        """Queue a copy; the addresses say where from and where to."""
        check(self._driver.cuMemcpyAsync(target, source, size, stream.handle))

    def fill(self, target: int, word: int, count: int, stream: Stream) -> None:
        """Queue the writing of ``count`` 32-bit words."""
        check(self._driver.cuMemsetD32Async(target, word, count, stream.handle))

    def record(self, stream: Stream) -> Any:
        """An event: this point of the stream."""
        return stream.core.record()

    def wait(self, handle: int, event: Any) -> None:
        """Let a stream, ours or another's, wait for an event."""
        check(self._driver.cuStreamWaitEvent(handle, event.handle, 0))

    def wait_for_stream(self, stream: Stream, handle: int) -> None:
        """Let ``stream`` wait for what another's stream holds now."""
        if handle != stream.handle:
            event = self._device.create_event()
            check(self._driver.cuEventRecord(event.handle, handle))
            self.wait(stream.handle, event)

    @property
    def dlpack_device(self) -> tuple[int, int]:
        """DLPack's kind and index of the device."""
        return CUDA, self.info.index

    def device_of(self, address: int) -> int:
        """The index of the device that memory of another library is on."""
        attribute = self._driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        return int(check(self._driver.cuPointerGetAttribute(attribute, address)))

    def ready(self, event: Any) -> None:
        """Block until the event's work is done."""
        event.sync()

    def publish(self, event: Any) -> int:
        """Handle of a long-lived stream that waits for ``event``, for the array interface."""
        self.wait(int(self._results.handle), event)
        return int(self._results.handle)

    def memory(self) -> tuple[int, int]:
        """Bytes that are free on the device, and all that it has."""
        error, free, total = self._driver.cuMemGetInfo()
        check((error,))
        return int(free), int(total)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Record what ``work`` queues on ``stream``, which runs nothing.

        Raises:
            Exception: whatever ``work`` raises, or CUDA, when it holds what cannot be captured.
        """
        # Not by cuda-core's builder: CUDA itself destroys the graph of an invalidated capture, and
        # the builder, up to 1.2 at least, does so again, which ends the process.
        driver = self._driver
        graph: Any = None
        # Calls of other threads that cannot be captured do not break this one.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        check(driver.cuStreamBeginCapture(stream.handle, mode))
        _capturing.on = True
        try:
            try:
                work()
            finally:  # no graph comes with an error
                error, graph = driver.cuStreamEndCapture(stream.handle)
            check((error,))
            return Graph(driver, int(check(driver.cuGraphInstantiate(graph, 0))))
        finally:
            _capturing.on = False
            if graph is not None:
                check(driver.cuGraphDestroy(graph))

    def free(self, address: int, stream: Stream) -> None:
        """Free in the order of ``stream``."""
        check(self._driver.cuMemFreeAsync(address, stream.handle))

    def free_later(self, address: int, last: Any, source: Any) -> None:
        """Free a result that nothing refers to any more, after the event ``last``.

        A consumer of DLPack drops an array while its own stream may still read it. Those that use
        the default stream, or one that synchronises with it, are waited for here. ``source`` is
        kept until ``last``.
        """
        if capturing():
            # The garbage collector runs anywhere.
            self._deferred.append((address, last, source))
            return
        with self.current():
            if last is not None:
                self._results.wait(last)
                if source is not None and not last.is_done:
                    self._reading.append((last, source))
            self._results.wait(self._core.LEGACY_DEFAULT_STREAM)
            check(self._driver.cuMemFreeAsync(address, self._results.handle))

    def _free_deferred(self) -> None:
        with suppress(IndexError):  # another thread was faster
            while self._deferred:
                self.free_later(*self._deferred.popleft())
            while self._reading:
                reading = self._reading.popleft()
                if not reading[0].is_done:
                    self._reading.appendleft(reading)
                    break

    def trim(self) -> None:
        """Give the system what the pool holds and nobody uses."""
        check(self._driver.cuMemPoolTrimTo(self._pool.handle, 0))

    def close(self) -> None:
        """Give the pool back, once the results that are still alive are gone."""
        self._free_deferred()
        self._results.sync()
        self._reading.clear()
        self._pool.close()
