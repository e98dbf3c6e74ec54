"""The engine: frontend, backbone and layer fusion in one call, for any number of clips."""

import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError, NumericalError
from ..frontend import Frontend
from ..spec import HEADS, Head, Spec
from .backends import open_backend
from .fusion import FusionState, accumulate, finalize, fuse
from .inputs import Clip, read_clip, read_clips
from .pieces import Piece, pieces_of

logger = logging.getLogger(__name__)

# Clips are grouped by length within a window of this many seconds of audio, so that the memory
# for a long list of files does not grow with the list.
WINDOW_SECONDS = 600.0


@dataclass(frozen=True)
class EngineStats:
    """What an engine has done so far.

    Args:
        clips: clips answered.
        audio_seconds: their length.
        runs: runs of the backbone.
        frontend_seconds: time spent in the frontend, summed over threads.
        backbone_seconds: in the backbone.
        fusion_seconds: in the layer fusion.
    """

    clips: int = 0
    audio_seconds: float = 0.0
    runs: int = 0
    frontend_seconds: float = 0.0
    backbone_seconds: float = 0.0
    fusion_seconds: float = 0.0


class Engine:
    """Turns audio into embeddings. Safe from many threads at once.

    Args:
        path: an artifact, `.onnx`.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``, which logs what it chose and why.
        backend: ``onnxruntime``, or ``None`` for the one that the artifact's suffix names.
        threads: CPU threads of one call; ``None``: one for every core this process may use.
        warmup: pairs of batch size and seconds to run once now, so that the first real call of
            that shape is not the slow one.

    Raises:
        ArtifactError: the artifact is missing, damaged, or has no or an unknown spec.
        BackendError: the library or the device is missing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        backend: str | None = None,
        threads: int | None = None,
        warmup: Iterable[tuple[int, float]] = (),
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}, expected at least 1")
        self._threads = threads or _usable_cores()
        self._backend = open_backend(
            Path(path), device=device, backend=backend, threads=self._threads
        )
        self._frontend = Frontend(self.spec.frontend)
        self._pools = [layer.time_pool for layer in self.spec.layers]
        self._stats = EngineStats()
        self._lock = threading.Lock()
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
        """Frame features per second, ``None`` for a model without a time axis."""
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
        with self._lock:
            return self._stats

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
        return out[0] if clips.single else out

    def embed_frames(self, audio: Any, *, sample_rate: int | None = None) -> NDArray[np.float32]:
        """The frame features z of one clip, ``engine.frame_rate`` of them per second.

        Args:
            audio: samples [N] or a path, as for ``embed``.
            sample_rate: as for ``embed``.

        Returns:
            float32 [D, T_o].

        Raises:
            ArtifactError: the model has no time axis.
            AudioError, NumericalError, TypeError, ValueError: as ``embed``.
        """
        clip = self._one_clip(audio, sample_rate)
        if self.spec.frames_per_step is None or self._has_clip_vector():
            raise ArtifactError(
                "this artifact has no frame features: "
                f"{self._vector_names()} pools over the whole clip. Export map layers only."
            )
        pieces = pieces_of(self.spec, self._frame_count(clip), name=clip.name)
        steps = sum(piece.count for piece in pieces)
        frames = np.empty((1, self.embedding_dim, steps), np.float32)
        self._pass(clip, pieces, frames)
        return frames[0]

    def layer_outputs(
        self, audio: Any, *, sample_rate: int | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """The backbone's layer outputs for one clip, before any pooling.

        Args:
            audio: samples [N] or a path, as for ``embed``.
            sample_rate: as for ``embed``.

        Returns:
            For each layer ``layer_N``: float32 [C, T_l, F] for a map, [C] for a vector. A long
            clip's chunks are joined.

        Raises:
            AudioError, TypeError, ValueError: as ``embed``.
        """
        clip = self._one_clip(audio, sample_rate)
        log_mel = self._log_mel([clip])
        pieces = pieces_of(self.spec, log_mel.shape[2], name=clip.name)
        parts: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
        for piece in pieces:
            outputs = self._run(log_mel[:, :, piece.start : piece.stop])
            for layer, output in zip(self.spec.layers, outputs, strict=True):
                rows = output[0]
                if layer.kind == "map":
                    first = piece.begin * layer.time_pool
                    # The last piece keeps the ragged tail that the pooling drops.
                    last = None if piece is pieces[-1] else first + piece.count * layer.time_pool
                    rows = rows[:, first:last]
                parts[layer.name].append(rows)
        return {
            name: rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)
            for name, rows in parts.items()
        }

    def _embed_window(self, clips: Sequence[Clip], out: NDArray[np.float32], head: Head) -> None:
        """Embed clips of any lengths: equal ones together, long ones in chunks."""
        groups: dict[int, list[int]] = defaultdict(list)
        for index, clip in enumerate(clips):
            groups[self._frame_count(clip)].append(index)
        for frames, indices in groups.items():
            if frames > self.spec.max_frames:
                for index in indices:
                    pieces = pieces_of(self.spec, frames, name=clips[index].name)
                    out[index] = finalize(self._pass(clips[index], pieces, None), head)[0]
                continue
            # A batch holds no more frames than the longest single run, which bounds its memory.
            size = max(1, self.spec.max_frames // frames)
            for first in range(0, len(indices), size):
                batch = indices[first : first + size]
                out[batch] = self._embed_batch([clips[i] for i in batch], head)

    def _embed_batch(self, clips: Sequence[Clip], head: Head) -> NDArray[np.float32]:
        """One run for clips of equal frame count."""
        outputs = self._run(self._log_mel(clips))
        with self._timed("fusion_seconds"):
            embedding, flags = fuse(outputs, self._pools, head=head, threads=self._threads)
        self._check_finite(flags, clips)
        return embedding

    def _pass(
        self, clip: Clip, pieces: Sequence[Piece], frames: NDArray[np.float32] | None
    ) -> FusionState:
        """All pieces of one clip, one run each; ``frames`` [1, D, T_o] receives frame features."""
        log_mel = self._log_mel([clip])
        state = FusionState.empty(1, self.embedding_dim)
        done = 0
        for piece in pieces:
            outputs = self._run(log_mel[:, :, piece.start : piece.stop])
            with self._timed("fusion_seconds"):
                accumulate(
                    state,
                    outputs,
                    self._pools,
                    begins=np.array([piece.begin]),
                    counts=np.array([piece.count]),
                    frames=frames,
                    frame_offsets=np.array([done]),
                    threads=self._threads,
                )
            self._check_finite(state.flags, [clip])
            done += piece.count
        return state

    def _log_mel(self, clips: Sequence[Clip]) -> NDArray[np.float32]:
        """Log-mel [B, 1, T, M] of clips of equal frame count."""
        with self._timed("frontend_seconds"):
            return self._frontend.batch([self._padded(clip.samples) for clip in clips])

    def _run(self, log_mel: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with self._timed("backbone_seconds", runs=1):
            return self._backend.run(np.ascontiguousarray(log_mel))

    def _padded(self, samples: NDArray[Any]) -> NDArray[Any]:
        """A clip shorter than the model's minimum is zero-padded on the right."""
        missing = self.spec.frontend.samples(self.spec.min_frames) - len(samples)
        return np.pad(samples, (0, missing)) if missing > 0 else samples

    def _frame_count(self, clip: Clip) -> int:
        return max(self.spec.min_frames, self.spec.frontend.frames(len(clip.samples)))

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

    def _vector_names(self) -> str:
        return ", ".join(layer.name for layer in self.spec.layers if layer.kind == "vector")

    def _has_clip_vector(self) -> bool:
        return any(layer.kind == "vector" for layer in self.spec.layers)

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

    @contextmanager
    def _timed(self, stage: str, *, runs: int = 0) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            with self._lock:
                old = self._stats
                self._stats = replace(
                    old, runs=old.runs + runs, **{stage: getattr(old, stage) + taken}
                )

    def _count(self, clips: Sequence[Clip]) -> None:
        seconds = sum(len(clip.samples) for clip in clips) / self.sample_rate
        with self._lock:
            old = self._stats
            self._stats = replace(
                old, clips=old.clips + len(clips), audio_seconds=old.audio_seconds + seconds
            )


def _usable_cores() -> int:
    """Cores this process may use; affinity counts, as in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
