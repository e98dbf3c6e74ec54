"""The runner on the CPU: NumPy's frontend, a network on host arrays, native layer fusion."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..frontend import Frontend
from ..spec import Head, Spec
from .cut import Cut, Cutting, Piece, frames_of, least_frames
from .fusion import FusionState
from .network import Network
from .runner import ClipState, Runner, RunResult, Samples, faulty_rows
from .stats import Meter


class CpuRunner(Runner):
    """Runs a network on the CPU.

    Args:
        network: the loaded artifact.
        spec: its own, with the normalisation that the caller asked for.
        threads: CPU threads of one call.
        meter: where the time of each stage is added up.
    """

    device = "cpu"

    def __init__(self, network: Network, spec: Spec, *, threads: int, meter: Meter) -> None:
        self._network, self.spec, self.name = network, spec, network.name
        self.cutting = Cutting(spec)
        self._threads, self._meter = threads, meter
        frontend = spec.frontend
        self._frontend = Frontend(frontend, threads=threads)
        self._least_samples = frontend.samples(least_frames(spec))
        # Zeros of log-mel before the normalisation.
        self._padding = -frontend.mean / (2 * (frontend.std or 0.5))
        self._pools = [layer.time_pool for layer in spec.layers]

    def run(self, clips: Sequence[Samples], cut: Cut, head: Head) -> RunResult:  # noqa: D102
        outputs = self._outputs(clips, cut.pieces)
        start = perf_counter()
        embeddings, flags = _core.fuse(
            outputs,
            self._pools,
            offsets=np.arange(len(clips) + 1) * len(cut.pieces),
            begins=np.array([piece.begin for piece in cut.pieces] * len(clips)),
            counts=self._counts(clips, cut),
            head=head,
            threads=self._threads,
        )
        self._meter.amounts.append({"fusion_seconds": perf_counter() - start})
        good = not flags.any() and np.isfinite(embeddings).all()
        return embeddings, flags, () if good else faulty_rows(embeddings, flags)

    def _counts(self, clips: Sequence[Samples], cut: Cut) -> NDArray[np.int64]:
        """Steps that count, of each piece."""
        if self.spec.masked:
            return np.array([self.spec.steps(frames) for frames in self._frames(clips)])
        return np.array([piece.count for piece in cut.pieces] * len(clips))

    def _frames(self, clips: Sequence[Samples]) -> list[int]:
        return [frames_of(self.spec, len(samples)) for samples in clips]

    def clip_state(self) -> ClipState:  # noqa: D102
        return _ClipState(self)

    def layer_outputs(  # noqa: D102
        self, samples: Samples, pieces: Sequence[Piece]
    ) -> list[NDArray[np.float32]]:
        return self._outputs([samples], pieces)

    def accumulate(
        self,
        state: FusionState,
        samples: Samples,
        pieces: Sequence[Piece],
        frames: NDArray[np.float32] | None,
    ) -> None:
        """Add a run of one clip to its state; see ``ClipState.add``."""
        outputs = self._outputs([samples], pieces)
        start = perf_counter()
        _core.accumulate(
            outputs,
            self._pools,
            offsets=np.array([0, len(pieces)]),
            begins=np.array([piece.begin for piece in pieces]),
            counts=np.array([piece.count for piece in pieces]),
            **state.totals,
            flags=state.flags,
            frames=None if frames is None else frames[None],
            threads=self._threads,
        )
        self._meter.amounts.append({"fusion_seconds": perf_counter() - start})

    def close(self) -> None:
        """Nothing but memory is held, and it goes with the last reference."""

    def _outputs(
        self, clips: Sequence[Samples], pieces: Sequence[Piece]
    ) -> list[NDArray[np.float32]]:
        """Layer outputs of clips that are cut alike, clip by clip and piece by piece."""
        start = perf_counter()
        padded = [self._padded(samples) for samples in clips]
        valid = None
        if self.spec.masked and len(clips) > 1:
            log_mel = self._frontend.batch(padded, frames=pieces[0].stop)
            valid = np.array(self._frames(clips), np.int32)
        else:
            log_mel = self._cut(self._frontend.batch(padded), pieces)
        middle = perf_counter()
        outputs = self._network.run(log_mel, valid)
        seconds = {"frontend_seconds": middle - start, "backbone_seconds": perf_counter() - middle}
        self._meter.amounts.append({"runs": 1, **seconds})
        return outputs

    def _padded(self, samples: Samples) -> Samples:
        """A clip shorter than the model's minimum is zero-padded on the right."""
        missing = self._least_samples - len(samples)
        return np.pad(samples, (0, missing)) if missing > 0 else samples

    def _cut(self, log_mel: NDArray[np.float32], pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Pieces [B·P, 1, L, M] of one length of log-mel [B, 1, T, M], clip by clip."""
        frames = log_mel.shape[2]
        # A lone clip needs no bucket.
        if len(pieces) == 1 and (pieces[0].stop <= frames or self.spec.masked):
            return np.ascontiguousarray(log_mel[:, :, pieces[0].start : pieces[0].stop])
        shape = len(log_mel), len(pieces), pieces[0].stop - pieces[0].start, log_mel.shape[3]
        out = np.full(shape, self._padding, np.float32)
        for index, piece in enumerate(pieces):
            real = log_mel[:, 0, piece.start : piece.stop]
            out[:, index, : real.shape[1]] = real
        return out.reshape(-1, 1, *shape[2:])


class _ClipState(ClipState):
    def __init__(self, runner: CpuRunner) -> None:
        self._runner = runner
        self._state = FusionState.empty(1, runner.spec.embedding_dim)

    def add(
        self,
        samples: Samples,
        pieces: Sequence[Piece],
        frames: NDArray[np.float32] | None = None,
    ) -> None:
        if not self._state.flags.any():  # else the clip has no embedding
            self._runner.accumulate(self._state, samples, pieces, frames)

    def finish(self, head: Head) -> tuple[NDArray[np.float32], np.uint32]:
        state = self._state
        return _core.finalize(**state.totals, head=head)[0], state.flags[0]
