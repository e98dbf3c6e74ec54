"""The runner of a waveform artifact, whose graph has frontend and fusion in it."""

from collections import defaultdict
from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from ..audio.arrays import INT16_SCALE
from ..errors import ArtifactError, AudioError
from ..spec import Head, Spec
from .cut import Cut, Cutting, Piece, Runs
from .network import Network
from .runner import ClipState, Runner, RunResult, Samples, faulty_rows
from .stats import Meter

EMBEDS_ONLY = (
    "this is a waveform artifact, which gives embeddings and nothing else. For frame features and "
    "layer outputs, export the model without --waveform"
)


class WaveformRunner(Runner):
    """Gives a network samples and takes its embeddings.

    Args:
        network: the loaded artifact.
        spec: its own.
        meter: where the time of each stage is added up; all of it is the backbone's.
    """

    device = "cpu"
    embeds_only = True

    def __init__(self, network: Network, spec: Spec, *, meter: Meter) -> None:
        self._network, self.spec, self.name = network, spec, network.name
        self.cutting = _WholeClips(spec)
        self._meter = meter

    def run(self, clips: Sequence[Samples], cut: Cut, head: Head) -> RunResult:  # noqa: D102
        # The graph takes one length; clips of equally many frames may differ by some samples.
        rows = defaultdict[int, list[int]](list)
        for row, samples in enumerate(clips):
            rows[len(samples)].append(row)
        embeddings = np.empty((len(clips), self.spec.embedding_dim), np.float32)
        for chosen in rows.values():
            start = perf_counter()
            batch = np.stack([_as_float(clips[row]) for row in chosen])
            (embeddings[chosen],) = self._network.run(batch)
            seconds = {"backbone_seconds": perf_counter() - start}
            self._meter.amounts.append({"runs": 1, **seconds})
        flags = np.zeros(len(clips), np.uint32)
        return embeddings, flags, faulty_rows(embeddings, flags)

    def clip_state(self) -> ClipState:  # noqa: D102
        raise ArtifactError(EMBEDS_ONLY)

    def layer_outputs(  # noqa: D102
        self, samples: Samples, pieces: Sequence[Piece]
    ) -> list[NDArray[np.float32]]:
        raise ArtifactError(EMBEDS_ONLY)

    def close(self) -> None:
        """Nothing but memory is held, and it goes with the last reference."""


class _WholeClips(Cutting):
    """Clips that take several runs are refused: what a run gives cannot be added up."""

    def runs(self, name: str = "clip") -> Runs:
        seconds = self.most_samples / self.spec.frontend.sample_rate
        raise AudioError(
            f"{name}: longer than {seconds:.1f} s, the most that a waveform artifact is run on, "
            "whose graph takes a clip as a whole. Cut the audio, or export the model without "
            "--waveform",
            kind="longer than the artifact takes",
        )


def _as_float(samples: Samples) -> NDArray[np.float32]:
    if samples.dtype == np.int16:
        return samples * INT16_SCALE
    return samples.astype(np.float32, copy=False)
