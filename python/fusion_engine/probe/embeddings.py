"""Embeddings of a task's clips, computed once and kept on disk."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .._atomic import write_error
from .._version import __version__
from ..artifact import file_sha256
from ..audio import decode_ahead
from ..audio.ahead import DecodeAhead
from ..engine import Engine
from ..errors import ArtifactError
from ..spec import Head, Spec
from .cache import CACHE_VERSION, AudioFile, BlockStore, audio_files, key_of, signature
from .tasks.base import Example, Task

# Clips of a block: what a run that is stopped may lose.
BLOCK_CLIPS = 64
# Clips embedded together: enough to fill a batch, few enough for the memory of long ones.
_WINDOW_CLIPS = 32
_WINDOW_SECONDS = 120.0

Progress = Callable[[int, int], None]
"""Called with the clips that are done and the clips that there are."""


class Embedder(Protocol):
    """What embeds clips: an ``Engine``, or a reference implementation beside it."""

    @property
    def sample_rate(self) -> int:
        """Of the clips, in Hz."""

    @property
    def embedding_dim(self) -> int:
        """D."""

    def embed(self, audio: Any, *, head: Head | None = None) -> NDArray[np.float32]:
        """The embeddings [B, D] of a list of clips [N]; a clip's does not depend on the others."""


def open_engine(
    artifact: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int | None = None,
    normalization: tuple[float, float] | None = None,
) -> tuple[Engine, str]:
    """An engine, and its identity for ``extract``.

    The identity is a digest of the artifact's content and of what else changes its numbers: the
    library and the device that run it, and the normalisation of the log-mel.

    Raises:
        ArtifactError, BackendError, ValueError: as ``Engine``; also an artifact that is written
            while it is being opened.
    """
    path = Path(artifact)
    try:
        before = signature(path)
        sha256 = file_sha256(path)
    except OSError:
        # The engine says what is wrong.
        before, sha256 = (), ""
    engine = Engine(path, device=device, threads=threads, normalization=normalization)
    if signature(path) != before:
        raise ArtifactError(
            f"{path}: changed while it was being opened, expected a file that stays as it is; "
            "run it again"
        )
    identity = key_of(
        {
            "artifact": sha256,
            "backend": engine.backend,
            "device": engine.device,
            "normalization": normalization,
        }
    )
    return engine, identity


def layer_columns(spec: Spec) -> dict[int, slice]:
    """Where each layer's own embedding is among the columns of the artifact's.

    The embedding of several layers is the concatenation of theirs (Niizumi et al. 2022, Eq. 2;
    the pooling of Eq. 3 is by column), so one pass over the audio serves them all.
    """
    columns, start = {}, 0
    for layer in spec.layers:
        columns[layer.number] = slice(start, start + layer.dim)
        start += layer.dim
    return columns


def extract(
    embedder: Embedder,
    task: Task,
    *,
    identity: str,
    cache: str | os.PathLike[str],
    head: Head | None = None,
    crop_seed: int = 0,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """The embeddings of a task's clips, in the order of its examples.

    Every clip is made ``task.seconds`` long: a shorter one is zero-padded on the right, a longer
    one cropped, in training and validation from a random start that follows from ``crop_seed``
    and the file's content, in test from its start. In a task with folds every example is in test
    once, and its one embedding serves training too: it is cropped from its start.

    What is in the cache is read, the rest is computed, and kept in blocks of 64 clips as it goes:
    a run that was stopped, by whatever means, is resumed by calling this again, with the same
    result. A block is found by the digest of the identity, the settings, the version of this
    package and the content of its audio files, and carries a checksum: one that is damaged is
    computed anew.

    Args:
        embedder: what embeds clips.
        task: its examples.
        identity: of the embedder: another one wherever it might give other numbers.
        cache: a folder, created where it is missing. Nothing is ever removed from it.
        head: pooling over time; ``None``: the artifact's.
        crop_seed: of the random starts.
        progress: told about clips as they are done.

    Returns:
        Read-only float32 [N, D], mapped from a temporary file in ``cache`` that goes when the
        array does: memory does not grow with N.

    Raises:
        AudioError: a file that is missing, cannot be decoded or changes meanwhile.
        FusionEngineError: the cache cannot be written.
        NumericalError, ValueError: as ``Engine.embed``.
    """
    cache = Path(cache)
    store = BlockStore(cache / "embeddings")
    if progress is not None:
        progress(0, len(task.examples))  # the digests of new files take a while
    files = audio_files([example.path for example in task.examples], cache / "audio")
    total, dim = len(files), embedder.embedding_dim
    cropper = _Cropper(task, embedder.sample_rate, crop_seed)
    clips = list(zip(task.examples, files, strict=True))
    blocks = [clips[first : first + BLOCK_CLIPS] for first in range(0, total, BLOCK_CLIPS)]
    settings = {
        "cache": CACHE_VERSION,
        "package": __version__,
        "embedder": identity,
        "head": head,
        "samples": cropper.samples,
        "sample_rate": embedder.sample_rate,
        "dim": dim,
    }
    keys = [
        key_of(settings | {"clips": [[file.sha256, cropper.rule(clip)] for clip, file in block]})
        for block in blocks
    ]
    done, missing = 0, []
    with _open_rows(cache) as rows:
        for number, block in enumerate(blocks):
            kept = store.load(keys[number], (len(block), dim))
            if kept is None:
                missing.append(number)
                continue
            _write_rows(rows, cache, number * BLOCK_CLIPS, kept)
            done += len(block)
        if progress is not None:
            progress(done, total)
        todo = [file.path for number in missing for _, file in blocks[number]]
        with decode_ahead(todo, embedder.sample_rate) as decoded:
            for number in missing:
                computed = np.empty((len(blocks[number]), dim), np.float32)
                place = 0
                for window in _windows(decoded, blocks[number], cropper, embedder.sample_rate):
                    computed[place : place + len(window)] = embedder.embed(window, head=head)
                    place += len(window)
                    if progress is not None:
                        progress(done + place, total)
                store.save(keys[number], computed)
                _write_rows(rows, cache, number * BLOCK_CLIPS, computed)
                done += place
        return np.memmap(rows, np.float32, "r", shape=(total, dim))


class _Cropper:
    """Gives clips the task's length."""

    def __init__(self, task: Task, sample_rate: int, seed: int) -> None:
        self._seed = seed
        self.samples = None if task.seconds is None else max(1, round(task.seconds * sample_rate))

    def rule(self, example: Example) -> str:
        """What the place of a crop follows from, beside the file's content."""
        if self.samples is None or example.split in (None, "test"):
            return "start"
        return f"random:{self._seed}"

    def __call__(
        self, clip: NDArray[np.float32], example: Example, file: AudioFile
    ) -> NDArray[np.float32]:
        if self.samples is None:
            return clip
        spare = len(clip) - self.samples
        if spare <= 0:
            return np.pad(clip, (0, -spare))
        rule, start = self.rule(example), 0
        if rule != "start":
            # Of the content, not of the place in a list: files may be added, moved and renamed.
            start = int(key_of([rule, file.sha256])[:16], 16) % (spare + 1)
        # A copy, so that the rest of the clip is not kept in memory.
        return clip[start : start + self.samples].copy()


def _windows(
    files: DecodeAhead,
    block: Sequence[tuple[Example, AudioFile]],
    cropper: _Cropper,
    sample_rate: int,
) -> Iterator[list[NDArray[np.float32]]]:
    """The clips of a block, cropped, some at a time."""
    window, samples = list[NDArray[np.float32]](), 0
    for (example, file), decoded in zip(block, islice(files, len(block)), strict=True):
        recording = decoded.recording()
        file.check_unchanged()
        window.append(cropper(recording.samples, example, file))
        samples += len(window[-1])
        if len(window) == _WINDOW_CLIPS or samples >= _WINDOW_SECONDS * sample_rate:
            yield window
            window, samples = [], 0
    if window:
        yield window


def _open_rows(cache: Path) -> IO[bytes]:
    """A file of no name in ``cache``: nothing of it is left behind, however the program ends."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=cache)
    except OSError as error:
        raise write_error(cache, error) from error


def _write_rows(rows: IO[bytes], cache: Path, first: int, block: NDArray[np.float32]) -> None:
    # Not through a map: there a full disk would end the program.
    try:
        rows.seek(first * block.shape[1] * block.itemsize)
        rows.write(np.ascontiguousarray(block).data)
        rows.flush()
    except OSError as error:
        raise write_error(cache, error) from error
