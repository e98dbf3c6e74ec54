"""What a network takes: log-mel, or what the network's own first operations make of it."""

import base64
import binascii
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError

DType = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class NetworkInput:
    """How log-mel is handed over. The frontend does it on the way out, in FP32 until it rounds.

    Args:
        dtype: the type that it is rounded to.
        affine: a scale and an offset for each mel bin that are applied before, as base64 of FP32
            [2, n_mels] in little-endian order; ``None``: none.
    """

    dtype: DType = "float32"
    affine: str | None = None

    @classmethod
    def of(cls, dtype: DType, scales: NDArray[np.float32], offsets: NDArray[np.float32]) -> Self:
        """With this scale and offset, [n_mels] each."""
        data = np.stack([scales, offsets]).astype("<f4").tobytes()
        return cls(dtype=dtype, affine=base64.b64encode(data).decode())

    def values(self, n_mels: int) -> NDArray[np.float32] | None:
        """The scales and offsets [2, n_mels].

        Raises:
            ArtifactError: they are not.
        """
        if self.affine is None:
            return None
        try:
            data = base64.b64decode(self.affine, validate=True)
        except (binascii.Error, ValueError):
            data = b""
        if len(data) == 8 * n_mels:
            values = np.frombuffer(data, "<f4").astype(np.float32).reshape(2, n_mels)
            if np.isfinite(values).all():
                return values
        raise ArtifactError(
            f"the scales and offsets of the input are not 2 × {n_mels} finite FP32 numbers"
        )


LOG_MEL = NetworkInput()
