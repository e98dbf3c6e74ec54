"""Page-locked arrays that callers write into, and that go to the device from where they are."""

import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..runner import Samples, SampleType
from .driver import Cuda, Pinned, capturing


class Inputs:
    """The page-locked arrays of one GPU that somebody still holds; safe from many threads.

    Attributes:
        ends: where each begins and ends, as addresses.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda, self._lock = cuda, threading.Lock()
        self.ends: dict[int, int] = {}
        self._freed = deque[Pinned]()

    def new(self, clips: int, samples: int, dtype: SampleType) -> NDArray[np.generic]:
        """An array [B, N] of zeros, whose memory is freed with its last view.

        Raises:
            OutOfMemory: there is not so much.
        """
        size = clips * samples * np.dtype(dtype).itemsize
        with self._cuda.current():
            self.free()
            pinned = self._cuda.pinned(size)
        memory = (ctypes.c_uint8 * size).from_address(pinned.address)
        with self._lock:
            self.ends[pinned.address] = pinned.address + size
        weakref.finalize(memory, self._forget, pinned).atexit = False
        array: NDArray[np.generic] = np.frombuffer(memoryview(memory), dtype).reshape(
            clips, samples
        )
        array[:] = 0
        return array

    def hold(self, clips: Sequence[Samples], dtype: SampleType) -> bool:
        """Whether clips lie in one such array and have this dtype."""
        place = clips[0].__array_interface__["data"][0]
        with self._lock:
            ends = [(begin, end) for begin, end in self.ends.items() if begin <= place < end]
        for clip in clips if ends else ():
            place = clip.__array_interface__["data"][0]
            if clip.dtype != dtype or not ends[0][0] <= place <= ends[0][1] - clip.nbytes:
                return False
        return bool(ends)

    def _forget(self, pinned: Pinned) -> None:
        """Free the memory of an array that is gone; the garbage collector runs anywhere."""
        with self._lock:
            del self.ends[pinned.address]
        self._freed.append(pinned)
        if not capturing():
            with self._cuda.current():
                self.free()

    def free(self) -> None:
        """Free the memory of arrays that are gone, inside ``cuda.current()``."""
        while self._freed:
            self._freed.popleft().close()
