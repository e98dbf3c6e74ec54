"""Embeddings of a task's clips, computed once and kept on disk."""

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .._atomic import create_folder
from .._version import __version__
from ..artifact import file_sha256
from ..audio import decode_ahead
from ..audio.ahead import DecodeAhead
from ..engine import Engine
from ..engine.clips import Embedded
from ..errors import ArtifactError, AudioError, FusionEngineError
from ..journal import Added, DamagedPart, Finished, Journal
from ..output import Row, RowLayout
from ..spec import Head, Spec
from .cache import (
    CACHE_VERSION,
    AudioFile,
    audio_files,
    key_of,
    mapped,
    signature,
)
from .tasks.base import Task

ClipProgress = Callable[[int, int], None]
"""Called with the clips that are done and the clips that there are."""


class Embedder(Protocol):
    """What embeds clips: an ``Engine``, or a reference implementation beside it."""

    @property
    def sample_rate(self) -> int:
        """Of the clips, in Hz."""

    @property
    def embedding_dim(self) -> int:
        """D."""

    def embed_stream(
        self, items: Iterable[tuple[Hashable, Any]], *, head: Head | None = None
    ) -> Iterator[Embedded]:
        """The embedding [D], or the error, of each item: a key, and samples [N] or a path.

        In order; an embedding does not depend on the other items. Items are taken as they are
        needed, so that few are held.
        """


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
    progress: ClipProgress | None = None,
) -> NDArray[np.float32]:
    """The embeddings of a task's clips, in the order of its examples.

    Every clip is made ``task.seconds`` long: a shorter one is zero-padded on the right, a longer
    one cropped, in training and validation from a random start that follows from ``crop_seed``
    and the file's content, in test from its start. In a task with folds every example is in test
    once, and its one embedding serves training too: it is cropped from its start.

    What is in the cache is read, the rest is computed, and on disk within seconds: a run that was
    stopped, by whatever means, is resumed by calling this again, with the same result. An
    embedding is found by the digest of the identity, the settings, the version of this package and
    the content of its audio file; a part of the cache that is damaged is removed, and what was in
    it computed anew. Any number of processes may use one cache at a time.

    Args:
        embedder: what embeds clips.
        task: its examples.
        identity: of the embedder: another one wherever it might give other numbers.
        cache: a folder, created where it is missing. Nothing is ever removed from it but what is
            damaged.
        head: pooling over time; ``None``: the artifact's.
        crop_seed: of the random starts.
        progress: told about clips as they are done.

    Returns:
        Read-only float32 [N, D], mapped from a temporary file in ``cache`` that goes when the
        array does: memory does not grow with N.

    Raises:
        AudioError: a file that is missing, cannot be decoded or changes meanwhile; what was
            embedded before is kept.
        FusionEngineError: the cache cannot be written.
        NumericalError, ValueError: as ``Engine.embed``.
    """
    cache = Path(cache)
    tell = progress or (lambda done, total: None)
    tell(0, len(task.examples))  # the digests of new files take a while
    files = audio_files([example.path for example in task.examples], cache / "audio")
    dim, rate = embedder.embedding_dim, embedder.sample_rate
    length = None if task.seconds is None else max(1, round(task.seconds * rate))
    settings = key_of(
        {
            "cache": CACHE_VERSION,
            "package": __version__,
            "embedder": identity,
            "head": head,
            "samples": length,
            "sample_rate": rate,
            "dim": dim,
        }
    )
    clips = []
    for example, file in zip(task.examples, files, strict=True):
        from_start = length is None or example.split in (None, "test")
        rule = "start" if from_start else f"random:{crop_seed}"
        clips.append(_Clip(file, rule, key_of([settings, file.sha256, rule])))
    folder = cache / "embeddings" / settings
    create_folder(folder)
    with Journal(folder, RowLayout(embedding_dim=dim), shared=True) as journal:
        while True:
            _embed_missing(embedder, clips, length, journal, head, tell)
            kept = (rows for _, rows in journal.read(clip.key for clip in clips))
            try:
                return mapped(kept, (len(clips), dim), cache)
            except DamagedPart as damaged:
                journal.drop(damaged)


@dataclass(frozen=True, eq=False)
class _Clip:
    """A file, cropped from its start or, by ``rule``, from a random one."""

    file: AudioFile
    rule: str
    key: str

    def __str__(self) -> str:
        return str(self.file.path)

    def crop(self, samples: NDArray[np.float32], length: int) -> NDArray[np.float32]:
        """``length`` of the file's samples, padded with zeros where it is shorter."""
        spare = len(samples) - length
        if spare <= 0:
            return np.pad(samples, (0, -spare))
        start = 0
        if self.rule != "start":
            # Of the content, not of the place in a list: files may be added, moved and renamed.
            start = int(key_of([self.rule, self.file.sha256])[:16], 16) % (spare + 1)
        # A copy, so that the rest of the file is not kept in memory.
        return samples[start : start + length].copy()


def _embed_missing(
    embedder: Embedder,
    clips: Sequence[_Clip],
    length: int | None,
    journal: Journal,
    head: Head | None,
    tell: ClipProgress,
) -> None:
    """Embed the clips that are not in the journal; files of one content only once."""
    missing = {clip.key: clip for clip in clips if journal.get(clip.key) is None}
    todo = list(missing.values())
    copies = Counter(clip.key for clip in clips)
    done = len(clips) - sum(copies[key] for key in missing)
    failed = list[AudioError]()
    paths = [clip.file.path for clip in todo]
    with decode_ahead(() if length is None else paths, embedder.sample_rate) as files:
        audio = paths if length is None else _crops(todo, files, length, failed)
        items = zip(todo, audio, strict=False)
        tell(done, len(clips))
        for clip, _, end, result in embedder.embed_stream(items, head=head):
            if isinstance(result, FusionEngineError):
                raise result
            assert isinstance(clip, _Clip)
            clip.file.check_unchanged()
            row = Row(path=clip.key, end=end, duration=end)
            journal.note(
                (Added(clip.key, "", 0, 1), ([row], result[np.newaxis])),
                (Finished(clip.key, "", 1, end, False), None),
            )
            done += copies[clip.key]
            tell(done, len(clips))
    if failed:
        raise failed[0]


def _crops(
    clips: Iterable[_Clip], files: DecodeAhead, length: int, failed: list[AudioError]
) -> Iterator[NDArray[np.float32]]:
    """The samples of every clip; ends at a file that fails: those before are embedded first."""
    for clip, decoded in zip(clips, files, strict=True):
        try:
            samples = decoded.recording().samples
        except AudioError as error:
            failed.append(error)
            return
        yield clip.crop(samples, length)
