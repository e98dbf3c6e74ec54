"""Arrays in GPU memory: those that callers give, and those that they get."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import AudioError
from ..runner import Flags
from . import dlpack
from .dlpack import Imported
from .driver import LEGACY_STREAM, Cuda, Memory, Stream

EXPECTED = "expected float32 in [-1, 1] or int16 PCM, [N] or [B, N]"


class OnDevice(Protocol):
    """An array of another library that may be in GPU memory."""

    def __dlpack__(self, *, stream: int | None = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, int]: ...


def is_on_gpu(audio: Any) -> bool:
    """Whether ``audio`` is an array in GPU memory."""
    if isinstance(audio, np.ndarray | str | list | tuple):
        return False
    if hasattr(audio, "__dlpack_device__"):
        try:
            return int(audio.__dlpack_device__()[0]) == dlpack.CUDA
        except Exception:  # PyTorch's for a device that DLPack does not know, for example
            return False
    return hasattr(audio, "__cuda_array_interface__")


def read_array(audio: Any, cuda: Cuda, stream: Stream) -> Imported:
    """Another library's samples; ``stream`` waits for the work that makes them.

    Raises:
        AudioError: not on this GPU, of another shape, empty, or with samples that are not adjacent.
        TypeError: of another type.
    """
    index = cuda.info.index
    if hasattr(audio, "__dlpack__"):
        device = int(audio.__dlpack_device__()[1])
        _check_device(device, index)
        array = dlpack.take(audio.__dlpack__(stream=stream.handle))
    else:
        array = _from_interface(audio, cuda, stream)
    name = f"audio in GPU memory is {array.dtype} {list(array.shape)}"
    if array.dtype not in (np.float32, np.int16):
        raise TypeError(f"{name}; {EXPECTED}")
    if len(array.shape) not in (1, 2) or 0 in array.shape:
        raise AudioError(f"{name}; {EXPECTED}, not empty")
    clips, length = array.shape if len(array.shape) == 2 else (1, array.shape[0])
    if length < clips and length <= 8:
        raise AudioError(f"{name}, which looks like [samples, channels]; {EXPECTED}")
    if array.strides[-1] != 1 and length > 1:
        raise AudioError(f"{name} with strides {list(array.strides)}: make it contiguous")
    return array


def _from_interface(audio: Any, cuda: Cuda, stream: Stream) -> Imported:
    """https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html."""
    face = audio.__cuda_array_interface__
    address = face["data"][0] or 0
    # An empty array is nowhere.
    device = cuda.device_of(address) if address else cuda.info.index
    _check_device(device, cuda.info.index)  # before CUDA refuses the other GPU's stream
    producer = face.get("stream", None if face["version"] >= 3 else LEGACY_STREAM)
    if producer is not None:
        cuda.wait_for_stream(stream, producer)
    shape, dtype = tuple(face["shape"]), np.dtype(face["typestr"])
    given = face.get("strides")
    strides = (
        dlpack.contiguous_strides(shape)
        if given is None
        else tuple(stride // dtype.itemsize for stride in given)
    )
    return Imported(address, shape, strides, dtype, device, audio)


def _check_device(device: int, expected: int) -> None:
    if device != expected:
        raise AudioError(
            f"audio is on cuda:{device}, and this engine runs on cuda:{expected}: move it there, "
            f"or open the engine with device='cuda:{device}'"
        )


class DeviceArray:
    """Embeddings in GPU memory: float32, C-contiguous, [D] or [B, D].

    Other libraries take it without a copy: ``torch.from_dlpack(array)``, ``cupy.asarray(array)``.
    Their stream waits for the embeddings, the host does not; whether they are finite is therefore
    known only to ``check`` and ``numpy``.

    Attributes:
        shape: [D] or [B, D].
        dtype: float32.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        cuda: Cuda,
        memory: Memory,
        shape: tuple[int, ...],
        *,
        ready: Any,
        flags: int,
        raise_for: Callable[[Flags, Flags], None],
    ) -> None:
        self.shape = shape
        self._cuda, self._memory, self._ready = cuda, memory, ready
        self._flags, self._raise_for = flags, raise_for
        self._clips = shape[0] if len(shape) == 2 else 1

    def __repr__(self) -> str:
        return f"<DeviceArray float32 {list(self.shape)} on cuda:{self._cuda.info.index}>"

    def check(self) -> None:
        """Wait for the embeddings, and raise where one is not to be used.

        Raises:
            NumericalError: a layer output is not finite.
            AudioError: a sample is not finite.
        """
        flags = np.empty((2, self._clips), np.uint32)
        self._fetch(flags, self._memory.address + self._flags)
        self._memory.source = None  # it was read
        self._raise_for(flags[0], flags[1])

    def numpy(self) -> NDArray[np.float32]:
        """A copy on the host.

        Raises:
            NumericalError, AudioError: as ``check``.
        """
        self.check()
        values = np.empty(self.shape, np.float32)
        self._fetch(values, self._memory.address)
        return values

    def _fetch(self, target: NDArray[Any], source: int) -> None:
        with self._cuda.current():
            self._cuda.ready(self._ready)
            stream = self._cuda.stream()
            try:
                self._cuda.copy(target.ctypes.data, source, target.nbytes, stream)
                stream.synchronize()
            finally:
                stream.close()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._cuda.dlpack_device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError(f"{self!r} is shared where it is, and not copied")
        if stream != -1:  # which says that the consumer has synchronised by itself
            with self._cuda.current():
                self._cuda.wait(stream or LEGACY_STREAM, self._ready)
        return dlpack.export(self._memory.address, self.shape, self.__dlpack_device__(), self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        with self._cuda.current():
            stream = self._cuda.publish(self._ready)
            # PyTorch does not read "stream".
            self._cuda.wait(LEGACY_STREAM, self._ready)
        return {
            "shape": self.shape,
            "typestr": "<f4",
            "data": (self._memory.address, False),
            "strides": None,
            "version": 3,
            "stream": stream,
        }
