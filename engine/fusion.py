"""What layer fusion keeps of a clip between calls (Niizumi et al. 2022, Eq. 1-3)."""

from dataclasses import dataclass
from typing import Self, TypedDict

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
FlagArray = npt.NDArray[np.uint32]


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
