"""The runner on the CPU: NumPy's frontend, a network on host arrays, native layer fusion."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..frontend import Frontend
from ..spec import Head, Spec
from .cut import Piece, least_frames, run_frames
from .fusion import FusionState, accumulate, finalize, fuse
from .network import Network
from .runner import ClipState, Flags, Runner, Samples
from .stats import Meter


class CpuRunner(Runner):
    """Runs a network on the CPU.

    Args:
        network: the loaded artifact.
        spec: its own, with the normalisation that the caller asked for.
        threads: CPU threads of one call.
        meter: where the time of each stage is added up.
    """

    def __init__(self, network: Network, spec: Spec, *, threads: int, meter: Meter) -> None:
        frontend = spec.frontend
        self._network = network
        self.spec, self.device, self.name = spec, "cpu", network.name
        self.min_frames, self.max_frames = self.spec.min_frames, self.spec.max_frames
        self.run_frames = run_frames(self.spec)
        self.threads, self.meter = threads, meter
        self._frontend = Frontend(frontend, threads=threads)
        # Zeros of log-mel before the normalisation.
        self._padding = -frontend.mean / (2 * (frontend.std or 0.5))
        self.pools = [layer.time_pool for layer in self.spec.layers]

    def clips_per_run(self, pieces: Sequence[Piece]) -> int:  # noqa: D102
        return max(1, self.run_frames // sum(piece.frames for piece in pieces))

    def embed(  # noqa: D102
        self, clips: Sequence[Samples], frames: int, pieces: Sequence[Piece], head: Head
    ) -> tuple[NDArray[np.float32], Flags]:
        outputs = self._run(self._cut(self._log_mel(clips), pieces))
        with self.meter.timed("fusion_seconds"):
            return fuse(
                outputs,
                self.pools,
                offsets=np.arange(len(clips) + 1) * len(pieces),
                begins=np.array([piece.begin for piece in pieces] * len(clips)),
                counts=np.array([piece.count for piece in pieces] * len(clips)),
                head=head,
                threads=self.threads,
            )

    def clip_state(self) -> ClipState:  # noqa: D102
        return _ClipState(self)

    def layer_outputs(  # noqa: D102
        self, samples: Samples, pieces: Sequence[Piece]
    ) -> list[NDArray[np.float32]]:
        return self._run(self._cut(self._log_mel([samples]), pieces))

    def close(self) -> None:
        """Nothing but memory is held, and it goes with the last reference."""

    def _log_mel(self, clips: Sequence[Samples]) -> NDArray[np.float32]:
        """Log-mel [B, 1, T, M] of clips of equal frame count."""
        with self.meter.timed("frontend_seconds"):
            return self._frontend.batch([self._padded(samples) for samples in clips])

    def _padded(self, samples: Samples) -> Samples:
        """A clip shorter than the model's minimum is zero-padded on the right."""
        missing = self.spec.frontend.samples(least_frames(self.spec)) - len(samples)
        return np.pad(samples, (0, missing)) if missing > 0 else samples

    def _cut(self, log_mel: NDArray[np.float32], pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Pieces [B·P, 1, L, M] of one length of log-mel [B, 1, T, M], clip by clip."""
        frames = log_mel.shape[2]
        if len(pieces) == 1 and pieces[0].stop <= frames:
            return np.ascontiguousarray(log_mel[:, :, pieces[0].start : pieces[0].stop])
        shape = len(log_mel), len(pieces), pieces[0].frames, log_mel.shape[3]
        out = np.full(shape, self._padding, np.float32)
        for index, piece in enumerate(pieces):
            real = log_mel[:, 0, piece.start : piece.stop]
            out[:, index, : real.shape[1]] = real
        return out.reshape(-1, 1, *shape[2:])

    def _run(self, log_mel: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        self.meter.add(runs=1)
        with self.meter.timed("backbone_seconds"):
            return self._network.run(log_mel)


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
        runner, state = self._runner, self._state
        if state.flags.any():
            return  # the clip has no embedding
        outputs = runner.layer_outputs(samples, pieces)
        with runner.meter.timed("fusion_seconds"):
            accumulate(
                state,
                outputs,
                runner.pools,
                offsets=np.array([0, len(pieces)]),
                begins=np.array([piece.begin for piece in pieces]),
                counts=np.array([piece.count for piece in pieces]),
                frames=None if frames is None else frames[None],
                threads=runner.threads,
            )

    def finish(self, head: Head) -> tuple[NDArray[np.float32], np.uint32]:
        return finalize(self._state, head)[0], self._state.flags[0]
