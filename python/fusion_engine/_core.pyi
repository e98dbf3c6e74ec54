"""Native kernels. What every argument means: ``help(_core.fuse)``, and so on."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

_Float = npt.NDArray[np.float32]
_Flags = npt.NDArray[np.uint32]
_Index = npt.NDArray[np.int64]
_Head = Literal["mean_max", "mean", "max"]

__version__: str
cuda_enabled: bool

def cuda_architectures() -> list[str]: ...

class FrontendTables:
    def __init__(
        self,
        *,
        n_fft: int,
        hop_length: int,
        padding: Literal["reflect", "none"],
        remove_dc: bool,
        preemphasis: float,
        spectrum: Literal["power", "magnitude"],
        log: Literal["db", "ln_add", "ln_max"],
        log_offset: float,
        mean: float,
        std: float | None,
        window: npt.NDArray[np.float64],
        filters: npt.NDArray[np.float64],
        affine: _Float | None = None,
        out_dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    ) -> None: ...
    @property
    def data(self) -> bytes: ...
    @property
    def n_mels(self) -> int: ...

def log_mel_cuda(
    frontend: FrontendTables,
    *,
    tables: int,
    samples: int,
    dtype: Literal["float32", "int16"],
    clips: int,
    stride: int,
    lengths: int = 0,
    frames: int,
    least: int = 0,
    out: int,
    out_frames: int,
    flags: int = 0,
    stream: int = 0,
) -> None: ...
def log_mel_on_host_grid(
    frontend: FrontendTables,
    samples: npt.NDArray[np.float32] | npt.NDArray[np.int16],
    *,
    frames: int,
    least: int = 0,
    lengths: _Index | None = None,
    out_frames: int | None = None,
    flags: _Flags | None = None,
) -> npt.NDArray[Any]: ...
def fuse(
    outputs: Sequence[npt.NDArray[Any]],
    time_pools: Sequence[int],
    *,
    offsets: _Index | None = None,
    begins: _Index | None = None,
    counts: _Index | None = None,
    head: _Head = "mean_max",
    frames: _Float | None = None,
    frame_offsets: _Index | None = None,
    threads: int = 1,
    target_threads: int = 1,
) -> tuple[_Float, _Flags]:
    """Embeddings [B, D] and flags [B] of the layer outputs of whole clips."""

def accumulate(
    outputs: Sequence[npt.NDArray[Any]],
    time_pools: Sequence[int],
    *,
    offsets: _Index | None = None,
    begins: _Index | None = None,
    counts: _Index | None = None,
    sum: _Float,
    compensation: _Float,
    max: _Float,
    count: _Float,
    flags: _Flags,
    frames: _Float | None = None,
    frame_offsets: _Index | None = None,
    threads: int = 1,
    target_threads: int = 1,
) -> None:
    """Add a call's counted frames to the state of clips: [B, D] each, [B] for count and flags."""

def finalize(
    *,
    sum: _Float,
    compensation: _Float,
    max: _Float,
    count: _Float,
    head: _Head = "mean_max",
) -> _Float:
    """Embeddings [B, D] of what was added to a state."""

class DeviceLayer:
    def __init__(
        self,
        data: int,
        *,
        dtype: str,
        shape: Sequence[int],
        strides: Sequence[int],
        time_pool: int,
    ) -> None: ...

def fuse_cuda(
    layers: Sequence[DeviceLayer],
    *,
    clips: int,
    embedding: int,
    flags: int,
    offsets: int = 0,
    begins: int = 0,
    counts: int = 0,
    head: _Head = "mean_max",
    frames: int = 0,
    frames_total: int = 0,
    frame_offsets: int = 0,
    stream: int = 0,
) -> None: ...
def accumulate_cuda(
    layers: Sequence[DeviceLayer],
    *,
    clips: int,
    sum: int,
    compensation: int,
    max: int,
    count: int,
    flags: int,
    offsets: int = 0,
    begins: int = 0,
    counts: int = 0,
    frames: int = 0,
    frames_total: int = 0,
    frame_offsets: int = 0,
    stream: int = 0,
) -> None: ...
def finalize_cuda(
    *,
    clips: int,
    dim: int,
    sum: int,
    compensation: int,
    max: int,
    count: int,
    embedding: int,
    head: _Head = "mean_max",
    stream: int = 0,
) -> None: ...

class Driver:
    def __init__(
        self,
        *,
        cuCtxPushCurrent: int,
        cuCtxPopCurrent: int,
        cuMemcpyHtoDAsync: int,
        cuGraphLaunch: int,
        cuStreamSynchronize: int,
        cuGetErrorName: int,
    ) -> None: ...

class Stream:
    def __init__(self, driver: Driver, *, context: int, handle: int) -> None: ...

class Program:
    def __init__(
        self,
        stream: Stream,
        *,
        device: int,
        samples: int,
        dtype: Literal["float32", "int16"],
        clips: int,
        stride: int,
        lengths: int,
        flags: int,
        embedding: int,
        dim: int,
        largest: float,
        valid: int = 0,
        counts: int = 0,
        hop_length: int = 1,
        first: int = 0,
        least: int = 0,
        frames_per_step: int = 1,
        step_offset: int = 0,
    ) -> None: ...
    def load(self, clips: Sequence[npt.NDArray[Any]], *, in_place: bool = False) -> None: ...
    def results(self) -> tuple[_Float, _Flags, list[int]]:
        """Embeddings [B, D], flags [B] of layer outputs, and the rows without an embedding."""

    def start(
        self, clips: Sequence[npt.NDArray[Any]], graph: int, *, in_place: bool = False
    ) -> None: ...
    def finish(self) -> tuple[_Float, _Flags, list[int]]: ...
    def run(
        self, clips: Sequence[npt.NDArray[Any]], graph: int, *, in_place: bool = False
    ) -> tuple[_Float, _Flags, list[int]]:
        """``start`` and ``finish``."""

def clip_lengths(clips: Sequence[Any]) -> list[int] | None:
    """Lengths of clips [N] that a ``Program`` takes as they are; ``None``: one is not."""
