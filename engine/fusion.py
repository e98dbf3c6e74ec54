"""What layer fusion keeps of a clip between calls (Niizumi et al. 2022, Eq. 1-3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypedDict

import numpy as np
import numpy.typing as npt

from .. import _core
from ..spec import Head

FloatArray = npt.NDArray[np.float32]
FlagArray = npt.NDArray[np.uint32]
IndexArray = npt.NDArray[np.int64]


class Totals(TypedDict):
    """The buffers that ``_core.accumulate`` and ``_core.finalize`` take by these keywords."""

    sum: FloatArray
    compensation: FloatArray
    max: FloatArray
    count: FloatArray


@dataclass
class FusionState:
    """What clips that are fused in several calls have added up so far; C-contiguous buffers.

    ``_core.accumulate`` adds to them, ``_core.finalize`` makes the embeddings of them.

    Args:
        sum: [B, D], the rounded sum of the counted frames.
        compensation: [B, D], what rounding took from ``sum``.
        max: [B, D], their maximum.
        count: [B], how many they are.
        flags: [B], bit l is set when a value read from the l-th layer output was not finite.
    """

    sum: FloatArray
    compensation: FloatArray
    max: FloatArray
    count: FloatArray
    flags: FlagArray

    @classmethod
    def empty(cls, clips: int, dim: int) -> Self:
        """The state of ``clips`` clips before their first frame."""
        return cls(
            sum=np.zeros((clips, dim), np.float32),
            compensation=np.zeros((clips, dim), np.float32),
            max=np.full((clips, dim), -np.inf, np.float32),
            count=np.zeros(clips, np.float32),
            flags=np.zeros(clips, np.uint32),
        )

    @property
    def totals(self) -> Totals:
        """All of it but the flags."""
        return {
            "sum": self.sum,
            "compensation": self.compensation,
            "max": self.max,
            "count": self.count,
        }


def fuse(
    outputs: Sequence[npt.NDArray[Any]],
    time_pools: Sequence[int],
    *,
    offsets: IndexArray | None = None,
    begins: IndexArray | None = None,
    counts: IndexArray | None = None,
    head: Head = "mean_max",
    frames: FloatArray | None = None,
    frame_offsets: IndexArray | None = None,
    threads: int = 1,
) -> tuple[FloatArray, FlagArray]:
    """Fuse whole clips.

    Args:
        outputs: 1 to 32 layer outputs, maps [S, C, T, F] or vectors [S, D], float32, float16 or
            bfloat16, of any strides.
        time_pools: window and stride of each one's max-pool over time, 1 for a vector. The last
            T mod pool rows are dropped, and T_o = T // pool must be the same for all maps.
        offsets: [B + 1], clip b has the segments offsets[b] to offsets[b + 1]; one each if None.
        begins: [S], the first of each segment's T_o frames that counts; 0 if None.
        counts: [S], how many count; T_o if None. A vector stands for each counted frame, and
            once if all outputs are vectors and this is None.
        head: pooling over the counted frames.
        frames: C-contiguous [B, D, T_total], takes the frame features of the counted frames.
        frame_offsets: [B], where each clip's start in ``frames``; 0 if None.
        threads: most threads to use. The result depends neither on it nor on the other clips.

    Returns:
        Embeddings [B, D], and flags [B]: bit l is set when a value read from ``outputs[l]`` was
        not finite, and the clip's embedding is then meaningless. Frames that do not count are
        not read.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: shapes or ranges that do not fit, or a clip with no counted frame.
    """
    return _core.fuse(
        outputs,
        time_pools,
        offsets=offsets,
        begins=begins,
        counts=counts,
        head=head,
        frames=frames,
        frame_offsets=frame_offsets,
        threads=threads,
    )


def accumulate(
    state: FusionState,
    outputs: Sequence[npt.NDArray[Any]],
    time_pools: Sequence[int],
    *,
    offsets: IndexArray | None = None,
    begins: IndexArray | None = None,
    counts: IndexArray | None = None,
    frames: FloatArray | None = None,
    frame_offsets: IndexArray | None = None,
    threads: int = 1,
) -> None:
    """Add a call's counted frames, which may be none, to ``state``.

    The arguments are those of `fuse`. However the frames of a clip are split over calls, the
    embedding stays within 1e-6 × max |value| of the one-shot result.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: shapes or ranges that do not fit.
    """
    _core.accumulate(
        outputs,
        time_pools,
        offsets=offsets,
        begins=begins,
        counts=counts,
        **state.totals,
        flags=state.flags,
        frames=frames,
        frame_offsets=frame_offsets,
        threads=threads,
    )


def finalize(state: FusionState, head: Head = "mean_max") -> FloatArray:
    """Embeddings [B, D] of the frames added to ``state``, which is left as it is.

    Raises:
        ValueError: a clip with no counted frame.
    """
    return _core.finalize(**state.totals, head=head)
