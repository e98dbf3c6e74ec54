"""What the engine asks of whoever computes: checked clips in, embeddings out."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, NumericalError
from ..spec import Head, Spec
from .pieces import Piece

Samples = NDArray[Any]
Flags = NDArray[np.uint32]
# One run of the backbone: its pieces, and its layer outputs with the segments as the first axis.
Run = tuple[Sequence[Piece], list[NDArray[np.float32]]]


class Runner(ABC):
    """Runs one artifact from samples on. Safe from many threads.

    Samples are one clip's [N], checked, of ``float32``, ``float64`` or ``int16``. Pieces are those
    of every clip of the call. Flags are [B]: bit l is set when layer output l was not finite.

    Attributes:
        spec: the artifact's spec.
        device: what really runs, ``cpu`` or ``cuda:0``.
        name: library, version and, on a GPU, its name.
        min_frames: the fewest frames of log-mel that it takes in one piece.
        max_frames: the most.
    """

    spec: Spec
    device: str
    name: str
    min_frames: int
    max_frames: int

    def cutting(self) -> Spec:
        """The spec by which clips are cut: a plan may take less than its artifact did."""
        return replace(self.spec, min_frames=self.min_frames, max_frames=self.max_frames)

    @abstractmethod
    def clips_per_run(self, pieces: Sequence[Piece]) -> int:
        """How many clips that are cut alike fit one run; 0: not even one, so run by run."""

    @abstractmethod
    def embed(
        self, clips: Sequence[Samples], frames: int, pieces: Sequence[Piece], head: Head
    ) -> tuple[NDArray[np.float32], Flags]:
        """Embeddings [B, D] and flags, in one run, of clips of ``frames`` frames of log-mel each.

        Raises:
            BackendError: the library failed, memory that ran out included.
        """

    @abstractmethod
    def embed_long(
        self, samples: Samples, frames: int, pieces: Sequence[Piece], head: Head
    ) -> tuple[NDArray[np.float32], Flags]:
        """Embedding [1, D] and flags of one clip, run by run."""

    @abstractmethod
    def embed_frames(
        self, samples: Samples, frames: int, pieces: Sequence[Piece], out: NDArray[np.float32]
    ) -> Flags:
        """Frame features of one clip into ``out`` [D, T_o], run by run."""

    @abstractmethod
    def layer_outputs(
        self, samples: Samples, frames: int, pieces: Sequence[Piece]
    ) -> Iterator[Run]:
        """Layer outputs of one clip in float32, run by run."""

    def embed_on_device(self, audio: Any, head: Head) -> Any:
        """Embeddings of an array on this runner's GPU, left there; see ``Engine.embed``."""
        raise BackendError(
            f"the audio is in GPU memory, and this engine runs on {self.device!r}: open the "
            "engine with device='cuda', or move the audio to the host"
        )

    def figures(self) -> dict[str, int]:
        """Fields of ``EngineStats`` that are states, not sums."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Give everything back; calls that are under way are waited for."""


def check_finite(spec: Spec, flags: Flags, names: Sequence[str]) -> None:
    """Raise for the first clip whose flags say that a layer output is not finite.

    Raises:
        NumericalError: names the clip and the layers.
    """
    for name, flag in zip(names, flags, strict=True):
        if flag:
            raise _not_finite(spec, flag, name)


def fault(
    spec: Spec, flag: np.uint32, embedding: NDArray[np.float32], name: str
) -> NumericalError | None:
    """Why there is no embedding of a clip, if there is none: a layer output, or a sum over time."""
    if flag:
        return _not_finite(spec, flag, name)
    if not np.isfinite(embedding).all():
        return NumericalError(
            f"{name}: its layer outputs are so large that their sum over time overflows, so "
            "there is no embedding. Check the weights with `fusion-engine info`."
        )
    return None


def _not_finite(spec: Spec, flag: np.uint32, name: str) -> NumericalError:
    layers = [layer.name for bit, layer in enumerate(spec.layers) if flag >> bit & 1]
    return NumericalError(
        f"{name}: {', '.join(layers)} holds values that are not finite, so there is no "
        "embedding. Check the weights with `fusion-engine info`."
    )
