"""Slots: what one call needs on the device for one input shape, kept for the next such call."""

import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, overload

from ...errors import BackendError
from .cuda_network import CudaNetwork
from .driver import Cuda, Graph, Memory, OutOfMemory, Pinned, Stream

logger = logging.getLogger(__name__)


class _Busy(Exception):
    """There is no room before a running call has ended."""


# More input shapes than this are seldom in use at once; a new one takes over the oldest's context.
MAX_SLOTS = 64
ALIGNMENT = 256  # of TensorRT's tensors and activation memory


class MemoryLayout:
    """Offsets of arrays in one block of memory."""

    def __init__(self) -> None:
        self.size = 0

    def add(self, size: int) -> int:
        """Room for ``size`` bytes; its offset."""
        offset = self.size
        self.size += -(-size // ALIGNMENT) * ALIGNMENT
        return offset


class Slot:
    """A context of the network, its stream, its memory, and at most one graph.

    Attributes:
        key: the shape and options that the rest is for; ``None`` where a binding failed.
        program: what the binding of ``key`` left for its runs.
        device: its device memory.
        pinned: its page-locked memory.
        patient: whether its binding may wait for running calls to end.
    """

    def __init__(self, cuda: Cuda, network: CudaNetwork) -> None:
        self._cuda = cuda
        self.stream: Stream = network.stream(cuda)
        self.context = network.context()
        self.key: Hashable = None
        self.program: Any = None
        self.device: Memory | None = None
        self.pinned: Pinned | None = None
        self.graph: Graph | None = None
        self._uses = 0
        self._capturable = True
        self.patient = True

    @property
    def bytes(self) -> int:
        """Device memory held."""
        return self.device.size if self.device is not None else 0

    def recorded(self, work: Callable[[], None]) -> Graph | None:
        """The graph of ``work``, recorded at its second use; ``None``: queue it as it is.

        The first time runs as it is: the library allocates and chooses kernels then.
        """
        self._uses += 1
        if self.graph is None and self._uses > 1 and self._capturable:
            self._capture(work)
        return self.graph

    def _capture(self, work: Callable[[], None]) -> None:
        self.stream.synchronize()
        self._capturable = self.context.capturable(self.stream)
        if not self._capturable:
            return
        try:
            self.graph = self._cuda.capture(self.stream, work)
        except Exception as error:  # the library's or CUDA's: the run goes on without a graph
            self._capturable = False
            logger.warning("this shape runs without a CUDA graph: %s", error)

    def forget(self) -> None:
        """Wait for its work, and drop the graph and what it was bound to."""
        self.stream.synchronize()
        if self.graph is not None:
            self.graph.close()
        self.key, self.program, self.graph = None, None, None
        self._uses, self._capturable = 0, True

    def free(self) -> None:
        """Give its memory back."""
        device, self.device = self.device, None
        pinned, self.pinned = self.pinned, None
        if device is not None:
            device.close(self.stream)
            self.stream.synchronize()
            self._cuda.trim()
        if pinned is not None:
            pinned.close()

    def close(self) -> None:
        """Destroy it."""
        with suppress(Exception):  # after a CUDA error nothing answers any more
            self.forget()
        self.context.close()
        with suppress(Exception):
            self.free()
        self.stream.close()


class SlotPool:
    """Leases slots to one call each.

    Args:
        cuda: the device; everything but ``take``, ``give_back`` and ``drop`` is called inside
            ``cuda.current()``.
        network: whose contexts they hold.
        contexts: leases at once; more calls wait.
        limit: bytes of device memory that all of them may hold.
    """

    def __init__(self, cuda: Cuda, network: CudaNetwork, *, contexts: int, limit: int) -> None:
        self._cuda, self._network = cuda, network
        self._contexts = min(contexts, network.concurrency or contexts)
        self._limit = limit
        self._changed = threading.Condition()
        self._idle: list[Slot] = []  # the one that was used last is last
        self._leased = 0
        self._held = 0

    @contextmanager
    def lease(self, key: Hashable, bind: Callable[[Slot], Any]) -> Iterator[Slot]:
        """A slot for ``key``, as ``take`` gives it, and given back at the end."""
        slot = self.take(key, bind)
        try:
            yield slot
        except BaseException:
            self.drop(slot)
            raise
        self.give_back(slot)

    @overload
    def take(self, key: Hashable, bind: Callable[[Slot], Any]) -> Slot: ...

    @overload
    def take(self, key: Hashable, bind: Callable[[Slot], Any], *, wait: bool) -> Slot | None: ...

    def take(self, key: Hashable, bind: Callable[[Slot], Any], *, wait: bool = True) -> Slot | None:
        """A slot for ``key`` and for one call, which ends with ``give_back`` or ``drop``.

        Unless it was bound to the key already, ``bind`` does that; its result is the program.

        Args:
            wait: for calls under way to end, where there is no room beside them; else ``None``.

        Raises:
            BackendError: memory ran out.
        """
        with self._changed:
            while self._leased >= self._contexts:
                if not wait:
                    return None
                self._changed.wait()
            self._leased += 1
            for slot in reversed(self._idle):
                if slot.key == key:
                    self._idle.remove(slot)
                    return slot
        try:
            return self._bound(key, bind, wait)
        except _Busy:
            return None

    def give_back(self, slot: Slot) -> None:
        """End a call that went well."""
        with self._changed:
            self._leased -= 1
            self._idle.append(slot)
            self._changed.notify_all()

    def drop(self, slot: Slot | None) -> None:
        """End a call that failed: its slot, if it came to have one, is not used again."""
        with self._cuda.current(), self._changed:
            self._leased -= 1
            if slot is not None:
                self._destroy(slot)
            self._changed.notify_all()

    def resize(self, slot: Slot, device: int, pinned: int, what: str) -> None:
        """Give a slot at least so many bytes; the least recently used ones make room.

        Raises:
            BackendError: more than the limit, or than there is; ``what`` says what for.
        """
        if slot.bytes < device or (slot.pinned.size if slot.pinned else 0) < pinned:
            with self._changed:
                self._held -= slot.bytes
                slot.free()
                self._changed.notify_all()
            self._reserve(device, what, slot.patient)
            try:
                slot.device = self._allocate(device, slot.stream, what)
            except BaseException:
                self._release(device)
                raise
            try:
                slot.pinned = self._cuda.pinned(pinned) if pinned else None
            except OutOfMemory as error:
                raise self._out_of_memory(error, what) from error

    def transient(self, size: int, stream: Stream, what: str) -> Memory:
        """Memory for one call, beside the slots.

        Raises:
            BackendError: there is not so much.
        """
        return self._allocate(size, stream, what)

    def figures(self) -> dict[str, int]:
        """What is held, for ``EngineStats``; slots under lease are not counted in ``graphs``."""
        with self._changed:
            return {
                "slots": len(self._idle) + self._leased,
                "device_bytes": self._held,
                "graphs": sum(slot.graph is not None for slot in self._idle),
            }

    def close(self) -> None:
        """Destroy the slots; none is leased."""
        self._drop_idle()

    def _bound(self, key: Hashable, bind: Callable[[Slot], Any], wait: bool) -> Slot:
        """The best slot for a key that none is bound to."""
        slot = None
        try:
            with self._cuda.current():
                with self._changed:
                    if len(self._idle) + self._leased > MAX_SLOTS and self._idle:
                        slot = self._idle.pop(0)
                if slot is None:
                    slot = self._new()
                slot.forget()
                slot.patient = wait
                slot.program = bind(slot)
                slot.key = key
        except BaseException:
            self.drop(slot)
            raise
        return slot

    def _new(self) -> Slot:
        """A new slot; where a context needs more memory than there is, idle slots give theirs."""
        try:
            return Slot(self._cuda, self._network)
        except BackendError:
            if not self._drop_idle():
                raise
            return Slot(self._cuda, self._network)

    def _destroy(self, slot: Slot) -> None:
        self._held -= slot.bytes
        slot.close()

    def _drop_idle(self) -> bool:
        """Destroy every idle slot; whether there was one."""
        with self._changed:
            found = bool(self._idle)
            while self._idle:
                self._destroy(self._idle.pop())
            return found

    def _reserve(self, size: int, what: str, wait: bool) -> None:
        with self._changed:
            while self._held + size > self._limit:
                if self._idle:
                    self._destroy(self._idle.pop(0))
                elif self._held:  # of running calls, which end
                    if not wait:
                        raise _Busy
                    self._changed.wait()
                else:
                    raise BackendError(
                        f"{what} needs {_megabytes(size)} of device memory, and memory_limit is "
                        f"{_megabytes(self._limit)}. Raise it, or embed fewer or shorter clips in "
                        "one call."
                    )
            self._held += size

    def _release(self, size: int) -> None:
        with self._changed:
            self._held -= size
            self._changed.notify_all()

    def _allocate(self, size: int, stream: Stream, what: str) -> Memory:
        try:
            return self._cuda.allocate(size, stream)
        except OutOfMemory:
            self._drop_idle()
        try:
            return self._cuda.allocate(size, stream)
        except OutOfMemory as error:
            raise self._out_of_memory(error, what) from error

    def _out_of_memory(self, error: OutOfMemory, what: str) -> BackendError:
        free, total = self._cuda.memory()
        return BackendError(
            f"out of {error.where} memory: {what} asked for {_megabytes(error.size)}; of the GPU's "
            f"{_megabytes(total)} {_megabytes(free)} are free, and this engine's buffers hold "
            f"{_megabytes(self._held)}. Embed fewer or shorter clips in one call, open the engine "
            "with contexts=1 or a smaller memory_limit, or free what else runs on the GPU."
        )


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
