"""The engine: frontend, backbone and layer fusion in one call, for any number of clips."""

import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError, NumericalError
from ..frontend import Frontend, FrontendSpec
from ..spec import HEADS, Head, Spec
from .backends import open_backend
from .fusion import FusionState, accumulate, finalize, fuse
from .inputs import Clip, read_clip, read_clips
from .pieces import Piece, least_frames, pieces_of, run_frames, runs_of
from .stats import EngineStats, Meter

logger = logging.getLogger(__name__)

# Clips are grouped by length within a window of this many seconds of audio, so that the memory
# for a long list of files does not grow with the list.
WINDOW_SECONDS = 600.0


class Engine:
    """Turns audio into embeddings. Safe from many threads at once.

    Args:
        path: an artifact, `.onnx`.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``, which logs what it chose and why.
        backend: ``onnxruntime``, or ``None`` for the one that the artifact's suffix names.
        threads: CPU threads of one call; ``None``: one for every core this process may use.
        normalization: mean and standard deviation of the log-mel in place of the artifact's, for
            a model that normalises it (AST: published evaluations use the task's own statistics).
        warmup: pairs of batch size and seconds to run once now, so that the first real call of
            that shape is not the slow one.

    Raises:
        ArtifactError: the artifact is missing, damaged, or has no or an unknown spec.
        BackendError: the library or the device is missing.
        ValueError: an argument out of range, or ``normalization`` for a model without one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        backend: str | None = None,
        threads: int | None = None,
        normalization: tuple[float, float] | None = None,
        warmup: Iterable[tuple[int, float]] = (),
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}, expected at least 1")
        self._threads = threads or _usable_cores()
        self._backend = open_backend(
            Path(path), device=device, backend=backend, threads=self._threads
        )
        frontend = self.spec.frontend
        if normalization is not None:
            frontend = _normalized(frontend, *normalization)
        self._frontend = Frontend(frontend, threads=self._threads)
        # Zeros of log-mel before the normalisation.
        self._padding = -frontend.mean / (2 * (frontend.std or 0.5))
        self._pools = [layer.time_pool for layer in self.spec.layers]
        self._meter = Meter()
        for batch, seconds in warmup:
            self.embed(np.zeros((batch, round(seconds * self.sample_rate)), np.float32))

    @property
    def spec(self) -> Spec:
        """The artifact's spec."""
        return self._backend.spec

    @property
    def sample_rate(self) -> int:
        """The model's sample rate in Hz."""
        return self.spec.frontend.sample_rate

    @property
    def embedding_dim(self) -> int:
        """D, the length of an embedding."""
        return self.spec.embedding_dim

    @property
    def frame_rate(self) -> float | None:
        """Frame features per second; ``None`` where a layer pools over the whole clip."""
        return self.spec.frame_rate

    @property
    def device(self) -> str:
        """What really runs: ``cpu`` or ``cuda:0``."""
        return self._backend.device

    @property
    def backend(self) -> str:
        """Library and version of what really runs."""
        return self._backend.name

    @property
    def stats(self) -> EngineStats:
        """What this engine has done so far."""
        return self._meter.stats

    def embed(
        self, audio: Any, *, sample_rate: int | None = None, head: Head | None = None
    ) -> NDArray[np.float32]:
        """The embedding z̃ of one or many clips (Niizumi et al. 2022, Eq. 1 to 3).

        Args:
            audio: samples [N] or a batch [B, N] (float32 or float64 in [-1, 1], or int16), a
                path, or a list of arrays [N] and paths. Clips of a list may differ in length.
            sample_rate: rate of the arrays in Hz; ``None``: they are at ``engine.sample_rate``.
            head: pooling over time, ``mean_max``, ``mean`` or ``max``; ``None``: the artifact's.

        Returns:
            float32 [D] for one clip, [B, D] for a batch or a list. A clip's embedding does not
            depend on the other clips of the call.

        Raises:
            AudioError: undecodable, empty, non-finite or mis-shaped audio, or a clip too long for
                an artifact that cannot cut it.
            NumericalError: a layer output is not finite.
            TypeError, ValueError: a wrong argument.
        """
        head = self._check_head(head)
        clips = read_clips(audio, source_rate=sample_rate, sample_rate=self.sample_rate)
        out = np.empty((clips.count, self.embedding_dim), np.float32)
        for first, window in self._windows(clips.items):
            self._embed_window(window, out[first : first + len(window)], head)
        return out.reshape(-1) if clips.single else out

    def embed_frames(self, audio: Any, *, sample_rate: int | None = None) -> NDArray[np.float32]:
        """The frame features z of one clip, ``engine.frame_rate`` of them per second.

        Args:
            audio: samples [N] or a path, as for ``embed``.
            sample_rate: as for ``embed``.

        Returns:
            float32 [D, T_o]; for a model whose segments have no time axis, one column a segment.

        Raises:
            ArtifactError: a layer pools over the whole clip.
            AudioError, NumericalError, TypeError, ValueError: as ``embed``.
        """
        clip = self._one_clip(audio, sample_rate)
        vectors = [layer.name for layer in self.spec.layers if layer.kind == "vector"]
        if vectors and self.spec.segment is None:
            raise ArtifactError(
                f"this artifact has no frame features: {', '.join(vectors)} pools over the whole "
                "clip. Export map layers only."
            )
        pieces = self._pieces(clip)
        if self.spec.frames_per_step is None:
            pieces = [replace(piece, count=1) for piece in pieces]
        steps = sum(piece.count for piece in pieces)
        frames = np.empty((self.embedding_dim, steps), np.float32)
        self._pass(clip, pieces, frames[None])
        return frames

    def layer_outputs(
        self, audio: Any, *, sample_rate: int | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """The backbone's layer outputs for one clip, before any pooling.

        Args:
            audio: samples [N] or a path, as for ``embed``.
            sample_rate: as for ``embed``.

        Returns:
            For each layer ``layer_N``: float32 [C, T_l, F] for a map, [C] for a vector, a long
            clip's chunks joined. A model that takes segments has them as a first axis.

        Raises:
            AudioError, TypeError, ValueError: as ``embed``.
        """
        clip = self._one_clip(audio, sample_rate)
        log_mel = self._log_mel([clip])
        pieces = self._pieces(clip)
        parts: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
        for run in runs_of(pieces, run_frames(self.spec)):
            outputs = self._run(self._cut(log_mel, run))
            for layer, output in zip(self.spec.layers, outputs, strict=True):
                if self.spec.segment is None and layer.kind == "map":
                    (piece,) = run
                    first = piece.begin * layer.time_pool
                    # The last piece keeps the ragged tail that the pooling drops.
                    last = None if piece is pieces[-1] else first + piece.count * layer.time_pool
                    output = output[:, :, first:last]
                parts[layer.name].append(output)
        if self.spec.segment is not None:
            return {name: np.concatenate(part) for name, part in parts.items()}
        return {
            name: part[0][0] if len(part) == 1 else np.concatenate(part, axis=2)[0]
            for name, part in parts.items()
        }

    def _embed_window(self, clips: Sequence[Clip], out: NDArray[np.float32], head: Head) -> None:
        """Embed clips of any lengths: equal ones together, long ones run by run."""
        groups: dict[int, list[int]] = defaultdict(list)
        for index, clip in enumerate(clips):
            groups[self._frame_count(clip)].append(index)
        most = run_frames(self.spec)
        for indices in groups.values():
            pieces = self._pieces(clips[indices[0]])
            frames = sum(piece.frames for piece in pieces)
            if frames > most:
                for index in indices:
                    out[index] = finalize(self._pass(clips[index], pieces, None), head)[0]
                continue
            size = most // frames
            for first in range(0, len(indices), size):
                batch = indices[first : first + size]
                out[batch] = self._embed_batch([clips[i] for i in batch], pieces, head)

    def _embed_batch(
        self, clips: Sequence[Clip], pieces: Sequence[Piece], head: Head
    ) -> NDArray[np.float32]:
        """One run for clips that are cut alike."""
        outputs = self._run(self._cut(self._log_mel(clips), pieces))
        with self._meter.timed("fusion_seconds"):
            embedding, flags = fuse(
                outputs,
                self._pools,
                offsets=np.arange(len(clips) + 1) * len(pieces),
                begins=np.array([piece.begin for piece in pieces] * len(clips)),
                counts=np.array([piece.count for piece in pieces] * len(clips)),
                head=head,
                threads=self._threads,
            )
        self._check_finite(flags, clips)
        return embedding

    def _pass(
        self, clip: Clip, pieces: Sequence[Piece], frames: NDArray[np.float32] | None
    ) -> FusionState:
        """All pieces of one clip; ``frames`` [1, D, T_o] receives frame features."""
        log_mel = self._log_mel([clip])
        state = FusionState.empty(1, self.embedding_dim)
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
            self._check_finite(state.flags, [clip])
            done += sum(piece.count for piece in run)
        return state

    def _log_mel(self, clips: Sequence[Clip]) -> NDArray[np.float32]:
        """Log-mel [B, 1, T, M] of clips of equal frame count."""
        with self._meter.timed("frontend_seconds"):
            return self._frontend.batch([self._padded(clip.samples) for clip in clips])

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

    def _padded(self, samples: NDArray[Any]) -> NDArray[Any]:
        """A clip shorter than the model's minimum is zero-padded on the right."""
        missing = self.spec.frontend.samples(least_frames(self.spec)) - len(samples)
        return np.pad(samples, (0, missing)) if missing > 0 else samples

    def _frame_count(self, clip: Clip) -> int:
        return max(least_frames(self.spec), self.spec.frontend.frames(len(clip.samples)))

    def _pieces(self, clip: Clip) -> list[Piece]:
        return pieces_of(self.spec, self._frame_count(clip), name=clip.name)

    def _one_clip(self, audio: Any, sample_rate: int | None) -> Clip:
        clip = read_clip(audio, source_rate=sample_rate, sample_rate=self.sample_rate)
        self._count([clip])
        return clip

    def _windows(self, items: Iterator[Clip]) -> Iterator[tuple[int, list[Clip]]]:
        """Runs of clips of bounded length, each with the index of its first clip."""
        limit = round(WINDOW_SECONDS * self.sample_rate)
        first, samples, window = 0, 0, list[Clip]()
        for clip in items:
            window.append(clip)
            samples += len(clip.samples)
            if samples >= limit:
                self._count(window)
                yield first, window
                first, samples, window = first + len(window), 0, []
        if window:
            self._count(window)
            yield first, window

    def _count(self, clips: Sequence[Clip]) -> None:
        seconds = sum(len(clip.samples) for clip in clips) / self.sample_rate
        self._meter.add(clips=len(clips), audio_seconds=seconds)

    def _check_head(self, head: Head | None) -> Head:
        if self.spec.frames_per_step is None:
            if head not in (None, self.spec.head):
                raise ValueError(
                    f"head is {head!r}, and this artifact has no time axis to pool: leave it out"
                )
            return "mean"  # of one vector: the vector itself
        if head is None:
            return self.spec.head
        if head not in HEADS:
            raise ValueError(f"head is {head!r}, expected one of {list(HEADS)}")
        return head

    def _check_finite(self, flags: NDArray[np.uint32], clips: Sequence[Clip]) -> None:
        for clip, flag in zip(clips, flags, strict=True):
            if flag:
                names = [
                    layer.name for bit, layer in enumerate(self.spec.layers) if flag >> bit & 1
                ]
                raise NumericalError(
                    f"{clip.name}: {', '.join(names)} holds values that are not finite, so "
                    "there is no embedding. Check the weights with `fusion-engine info`."
                )


def _normalized(frontend: FrontendSpec, mean: float, std: float) -> FrontendSpec:
    if frontend.std is None:
        raise ValueError(
            f"normalization is {(mean, std)}, and the {frontend.preset} frontend does not "
            "normalise its log-mel: leave it out"
        )
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ValueError(f"normalization is {(mean, std)}, expected a mean and a std above 0")
    return replace(frontend, mean=float(mean), std=float(std))


def _usable_cores() -> int:
    """Cores this process may use; affinity counts, as in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
