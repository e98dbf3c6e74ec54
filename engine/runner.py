"""What the engine asks of whoever computes: checked samples in, embeddings out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, NumericalError
from ..spec import Head, Spec
from .cut import Cut, Cutting, Piece

Samples = NDArray[Any]
SampleType = Literal["float32", "int16"]
Flags = NDArray[np.uint32]
# Of a run: embeddings [B, D], flags [B], and the rows that have no embedding.
RunResult = tuple[NDArray[np.float32], Flags, Sequence[int]]


class ClipState(ABC):
    """What a clip that is embedded run by run has added up; freed with its last reference."""

    @abstractmethod
    def add(
        self,
        samples: Samples,
        pieces: Sequence[Piece],
        frames: NDArray[np.float32] | None = None,
    ) -> None:
        """Take the next run.

        Args:
            samples: the part of the clip that the run is of.
            pieces: of these samples' log-mel.
            frames: receives the frame features [D, T_o] that count.

        Raises:
            BackendError: as ``Runner.run``.
        """

    @abstractmethod
    def finish(self, head: Head) -> tuple[NDArray[np.float32], np.uint32]:
        """The embedding [D] and the flags."""


class Runner(ABC):
    """Runs one artifact from samples on. Safe from many threads.

    Samples are one clip's [N], checked, of ``float32``, ``float64`` or ``int16``. Flags are [B]:
    bit l is set when layer output l was not finite.

    Attributes:
        spec: the artifact's spec, with the normalisation that was asked for.
        device: what really runs, ``cpu`` or ``cuda:0``.
        name: library, version and, on a GPU, its name.
        cutting: how clips are cut.
        embeds_only: it gives embeddings of whole clips with the spec's head, and nothing else.
        checks_samples: ``run`` takes clips that are not checked yet, and a bad sample makes one of
            the rows without an embedding.
        keeps_in_flight: ``start`` may be called; else ``run`` computes in the calling thread.
        call: makes the context of a call of several runs, which closing waits for.
    """

    spec: Spec
    device: str
    name: str
    cutting: Cutting
    embeds_only: bool = False
    checks_samples: bool = False
    keeps_in_flight: bool = False
    call: Callable[[], AbstractContextManager[None]] = nullcontext

    @abstractmethod
    def run(self, clips: Sequence[Samples], cut: Cut, head: Head) -> RunResult:
        """Embed clips that are cut alike, in one run.

        Raises:
            BackendError: the library failed, memory that ran out included.
        """

    def start(
        self, clips: Sequence[Samples], cut: Cut, head: Head
    ) -> Callable[[], RunResult] | None:
        """Begin what ``run`` does, without waiting for anything.

        Returns:
            What waits for the result, and has to be called once; ``None``: there is no room beside
            what is under way.

        Raises:
            BackendError: as ``run``; so does what is returned.
        """
        raise NotImplementedError

    @abstractmethod
    def clip_state(self) -> ClipState:
        """Of a clip before its first run."""

    @abstractmethod
    def layer_outputs(self, samples: Samples, pieces: Sequence[Piece]) -> list[NDArray[np.float32]]:
        """Layer outputs of one run, the pieces as the first axis."""

    def input(self, clips: int, samples: int, dtype: SampleType) -> NDArray[Any]:
        """An array [B, N] for a caller to write into; see ``Engine.input``.

        Raises:
            BackendError: memory ran out.
        """
        return np.zeros((clips, samples), dtype)

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


def faulty_rows(embeddings: NDArray[np.float32], flags: Flags) -> Sequence[int]:
    """The rows of a result that have no embedding."""
    bad = (flags != 0) | ~np.isfinite(embeddings).all(axis=1)
    return [int(row) for row in np.flatnonzero(bad)]


def fault(
    spec: Spec, flag: np.uint32, embedding: NDArray[np.float32], name: str
) -> NumericalError | None:
    """Why there is no embedding of a clip, if there is none: a layer output, or a sum over time."""
    if flag:
        return not_finite(spec, flag, name)
    if not np.isfinite(embedding).all():
        return NumericalError(
            f"{name}: its layer outputs are so large that their sum over time overflows, so "
            "there is no embedding. Check the weights with `fusion-engine info`."
        )
    return None


def not_finite(spec: Spec, flag: np.uint32, name: str) -> NumericalError:
    """What is said of a clip whose flag is set: names the clip and the layers."""
    layers = [layer.name for bit, layer in enumerate(spec.layers) if flag >> bit & 1]
    return NumericalError(
        f"{name}: {', '.join(layers)} holds values that are not finite, so there is no "
        "embedding. Check the weights with `fusion-engine info`."
    )
