"""The runner on the CPU: NumPy's frontend, a backend on host arrays, native layer fusion."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..frontend import Frontend, FrontendSpec
from ..spec import Head
from .backends import Backend
from .fusion import FusionState, accumulate, finalize, fuse
from .pieces import Piece, least_frames, run_frames, runs_of
from .runner import Flags, Run, Runner, Samples
from .stats import Meter


class HostRunner(Runner):
    """Runs a backend on the CPU.

    Args:
        backend: the backbone.
        frontend: settings of the frontend, with the normalisation that the caller asked for.
        threads: CPU threads of one call.
        meter: where the time of each stage is added up.
    """

    def __init__(
        self, backend: Backend, *, frontend: FrontendSpec, threads: int, meter: Meter
    ) -> None:
        self._backend = backend
        self.spec, self.device, self.name = backend.spec, backend.device, backend.name
        self.min_frames, self.max_frames = self.spec.min_frames, self.spec.max_frames
        self._threads, self._meter = threads, meter
        self._frontend = Frontend(frontend, threads=threads)
        # Zeros of log-mel before the normalisation.
        self._padding = -frontend.mean / (2 * (frontend.std or 0.5))
        self._pools = [layer.time_pool for layer in self.spec.layers]

    def clips_per_run(self, pieces: Sequence[Piece]) -> int:  # noqa: D102
        return run_frames(self.spec) // sum(piece.frames for piece in pieces)

    def embed(  # noqa: D102
        self, clips: Sequence[Samples], frames: int, pieces: Sequence[Piece], head: Head
    ) -> tuple[NDArray[np.float32], Flags]:
        outputs = self._run(self._cut(self._log_mel(clips), pieces))
        with self._meter.timed("fusion_seconds"):
            return fuse(
                outputs,
                self._pools,
                offsets=np.arange(len(clips) + 1) * len(pieces),
                begins=np.array([piece.begin for piece in pieces] * len(clips)),
                counts=np.array([piece.count for piece in pieces] * len(clips)),
                head=head,
                threads=self._threads,
            )

    def embed_long(  # noqa: D102
        self, samples: Samples, frames: int, pieces: Sequence[Piece], head: Head
    ) -> tuple[NDArray[np.float32], Flags]:
        state = self._pass(samples, pieces, None)
        return finalize(state, head), state.flags

    def embed_frames(  # noqa: D102
        self, samples: Samples, frames: int, pieces: Sequence[Piece], out: NDArray[np.float32]
    ) -> Flags:
        return self._pass(samples, pieces, out[None]).flags

    def layer_outputs(  # noqa: D102
        self, samples: Samples, frames: int, pieces: Sequence[Piece]
    ) -> Iterator[Run]:
        log_mel = self._log_mel([samples])
        for run in runs_of(pieces, run_frames(self.spec)):
            yield run, self._run(self._cut(log_mel, run))

    def close(self) -> None:
        """Nothing but memory is held, and it goes with the last reference."""

    def _pass(
        self, samples: Samples, pieces: Sequence[Piece], frames: NDArray[np.float32] | None
    ) -> FusionState:
        """All pieces of one clip; ``frames`` [1, D, T_o] receives frame features."""
        log_mel = self._log_mel([samples])
        state = FusionState.empty(1, self.spec.embedding_dim)
        done = 0
        for run in runs_of(pieces, run_frames(self.spec)):
            outputs = self._run(self._cut(log_mel, run))
            with self._meter.timed("fusion_seconds"):
                accumulate(
                    state,
                    outputs,
                    self._pools,
                    offsets=np.array([0, len(run)]),
                    begins=np.array([piece.begin for piece in run]),
                    counts=np.array([piece.count for piece in run]),
                    frames=frames,
                    frame_offsets=None if frames is None else np.array([done]),
                    threads=self._threads,
                )
            if state.flags.any():
                break  # the clip has no embedding
            done += sum(piece.count for piece in run)
        return state

    def _log_mel(self, clips: Sequence[Samples]) -> NDArray[np.float32]:
        """Log-mel [B, 1, T, M] of clips of equal frame count."""
        with self._meter.timed("frontend_seconds"):
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
        self._meter.add(runs=1)
        with self._meter.timed("backbone_seconds"):
            return self._backend.run(log_mel)
