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
) -> tuple[_Float, _Flags]: ...
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
) -> None: ...
def finalize(
    *,
    sum: _Float,
    compensation: _Float,
    max: _Float,
    count: _Float,
    head: _Head = "mean_max",
) -> _Float: ...
def fuse_on_host_grid(
    outputs: Sequence[npt.NDArray[Any]],
    time_pools: Sequence[int],
    *,
    offsets: _Index | None = None,
    begins: _Index | None = None,
    counts: _Index | None = None,
    head: _Head = "mean_max",
    frames: _Float | None = None,
    frame_offsets: _Index | None = None,
    target_threads: int = 131072,
) -> tuple[_Float, _Flags]: ...
def accumulate_on_host_grid(
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
    target_threads: int = 131072,
) -> None: ...

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
