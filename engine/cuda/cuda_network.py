"""What the GPU runner asks of a network: layer outputs in device memory, from log-mel there."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...spec import Spec
from ..network_input import LOG_MEL, NetworkInput
from .dlpack import contiguous_strides
from .driver import Cuda, Stream

ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class TensorLayout:
    """A layer output in memory.

    Args:
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        shape: [S, C, T, F] or [S, D].
        strides: of these axes, in elements.
        elements: how many the memory holds, padding included.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    elements: int

    @property
    def bytes(self) -> int:
        """Size of the memory."""
        return self.elements * ITEM_SIZES[self.dtype]

    @classmethod
    def linear(cls, dtype: str, shape: tuple[int, ...]) -> "TensorLayout":
        """C-contiguous."""
        return cls(dtype, shape, contiguous_strides(shape), int(np.prod(shape)))

    @classmethod
    def channels_last(cls, dtype: str, shape: tuple[int, ...], multiple: int) -> "TensorLayout":
        """[S, C, T, F] in the order S, T, F, C, with C padded to a multiple."""
        segments, channels, time, freq = shape
        padded = -(-channels // multiple) * multiple
        strides = (time * freq * padded, 1, freq * padded, padded)
        return cls(dtype, shape, strides, segments * time * freq * padded)

    def to_float32(self, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The output [S, C, T, F] or [S, D] in a new array, from a copy of its memory."""
        if self.dtype == "bfloat16":  # the upper half of a float32
            values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = raw.view(self.dtype)
        strides = [stride * values.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(values, self.shape, strides, writeable=False)
        return np.array(view, np.float32, order="C")


@dataclass(frozen=True)
class LayerTensor:
    """A layer output at an address."""

    address: int
    layout: TensorLayout


class Context(ABC):
    """Runs the network for one call at a time."""

    @abstractmethod
    def prepare(self, segments: int, frames: int, stream: Stream) -> Sequence[int]:
        """Take the input shape [S, 1, T, M]; the sizes in bytes of the memory that it needs."""

    @abstractmethod
    def attach(self, addresses: Sequence[int]) -> None:
        """Use this memory, aligned to 256 bytes, of the sizes that ``prepare`` said."""

    @abstractmethod
    def enqueue(self, log_mel: int, stream: Stream, valid: int = 0) -> Sequence[LayerTensor]:
        """Queue a run; the layer outputs in the spec's order, until the next call.

        Args:
            log_mel: address of the network's input.
            stream: that it is queued on.
            valid: for a masked network the address of the int32 frames [S] of each input.

        Raises:
            BackendError: the library failed.
        """

    def capturable(self, stream: Stream) -> bool:
        """Whether a CUDA graph can hold ``enqueue``."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Free what the library holds for it; its stream has no work left."""


class CudaNetwork(ABC):
    """A loaded artifact. Its methods may be called from many threads, one at a time per context.

    Attributes:
        spec: the artifact's spec.
        name: library and version.
        input: what it takes.
        concurrency: contexts that may run at once; ``None``: any number.
        min_frames: the fewest frames of log-mel in a segment or chunk.
        max_frames: the most.
    """

    spec: Spec
    name: str
    input: NetworkInput = LOG_MEL
    concurrency: int | None
    min_frames: int
    max_frames: int

    @abstractmethod
    def segments_per_run(self, frames: int) -> int:
        """How many inputs of ``frames`` frames one run takes.

        Raises:
            AudioError: not one, since they are shorter than it takes.
        """

    @abstractmethod
    def stream(self, cuda: Cuda) -> Stream:
        """The stream for a new context's work."""

    @abstractmethod
    def context(self) -> Context:
        """A new context.

        Raises:
            BackendError: the library failed, memory that ran out included.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the weights; every context is closed."""
