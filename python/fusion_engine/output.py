"""Embeddings to a file: Parquet, NumPy's `.npz` or CSV, by the suffix of its name.

All three hold one row per clip: what ``Row`` says of it, and its embedding. A file appears whole,
when its writer is left without an exception, or not at all.
"""

import csv
import json
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from ._atomic import atomic_path, write_error
from .errors import FusionEngineError
from .spec import METADATA_KEY, Spec

NPZ_MAX_CLIPS = 100_000
# Parquet rows are written in groups of about this many bytes of embeddings.
_ROW_GROUP_BYTES = 2**24


Columns = dict[str, list[Any]]


def _text(path: str) -> str:
    """``path`` as valid Unicode: file names may hold bytes that are none."""
    return path.encode("utf-8", "backslashreplace").decode()


TIMES = ("start", "end", "duration")
FLAGS = ("partial", "silent", "clipped_scale")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is known of a clip beside its embedding; times in seconds of the recording.

    Args:
        path: of its file; bytes that are not UTF-8 are written as ``\\udc80``.
        channel: of the file, from 1 on, where each has a row of its own.
        start: of the clip.
        end: of the clip; beyond the recording's where it was padded.
        duration: of the recording.
        partial: the file contradicts itself or is damaged; this is what is there.
        silent: every sample is zero.
        clipped_scale: a sample is beyond ±16: integers saved as floats, or damage.
    """

    path: str
    channel: int | None = None
    start: float = 0.0
    end: float
    duration: float
    partial: bool = False
    silent: bool = False
    clipped_scale: bool = False


class EmbeddingWriter(ABC):
    """Takes rows as they come; made by ``open_writer``."""

    def __init__(self, spec: Spec, channels: bool) -> None:
        self._spec = spec
        self._channels = channels
        self._columns = ("path", *(("channel",) if channels else ()), *TIMES, *FLAGS)

    def write(self, rows: Sequence[Row], embeddings: NDArray[np.float32]) -> None:
        """Append n rows.

        Args:
            rows: n clips.
            embeddings: [n, D] float32.

        Raises:
            ValueError: another shape or dtype, or a channel with or without a column for it.
            FusionEngineError: more clips than the format is for, or a full disk.
        """
        expected = (len(rows), self._spec.embedding_dim)
        if embeddings.shape != expected:
            raise ValueError(
                f"{len(rows)} rows and embeddings of shape {list(embeddings.shape)}, expected "
                f"embeddings of shape {list(expected)}"
            )
        if any((row.channel is not None) != self._channels for row in rows):
            raise ValueError(f"expected {'a' if self._channels else 'no'} channel in every row")
        if embeddings.dtype != np.float32:
            raise ValueError(f"embeddings are {embeddings.dtype}, expected float32")
        columns = {name: [getattr(row, name) for row in rows] for name in self._columns}
        columns["path"] = [_text(path) for path in columns["path"]]
        self._write(columns, embeddings)

    @abstractmethod
    def _write(self, columns: Columns, embeddings: NDArray[np.float32]) -> None:
        """Append rows, given by column."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what is still held and close the file."""

    @abstractmethod
    def _abandon(self) -> None:
        """Let go of the file, whatever is in it."""


class _ParquetWriter(EmbeddingWriter):
    """The columns of a row and embedding; the spec in the metadata under ``fusion_engine``."""

    def __init__(self, path: Path, spec: Spec, channels: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        super().__init__(spec, channels)
        types = {"path": pa.string(), "channel": pa.int32()} | dict.fromkeys(TIMES, pa.float64())
        types |= dict.fromkeys(FLAGS, pa.bool_())
        self._schema = pa.schema(
            [
                *(pa.field(name, types[name], nullable=False) for name in self._columns),
                pa.field("embedding", pa.list_(pa.float32(), spec.embedding_dim), nullable=False),
            ],
            metadata={METADATA_KEY: spec.to_json()},
        )
        # Neither a dictionary nor compression makes floats smaller.
        self._file = pq.ParquetWriter(
            path, self._schema, use_dictionary=False, compression="none", version="2.6"
        )
        self._group_rows = max(1, _ROW_GROUP_BYTES // (4 * spec.embedding_dim))
        self._held: list[Any] = []
        self._held_rows = 0

    def _write(self, columns: Columns, embeddings: NDArray[np.float32]) -> None:
        import pyarrow as pa

        # A copy: the caller may use its buffer again before the group is full.
        values = pa.array(embeddings.flatten())
        vectors = pa.FixedSizeListArray.from_arrays(
            values, type=self._schema.field("embedding").type
        )
        arrays = [pa.array(columns[name], self._schema.field(name).type) for name in self._columns]
        self._held.append(pa.record_batch([*arrays, vectors], schema=self._schema))
        self._held_rows += len(embeddings)
        if self._held_rows >= self._group_rows:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        table = pa.Table.from_batches(self._held, self._schema)
        self._file.write_table(table, row_group_size=self._group_rows)
        self._held, self._held_rows = [], 0

    def _finish(self) -> None:
        if self._held:
            self._flush()
        self._file.close()

    def _abandon(self) -> None:
        # It writes a footer, which on a full disk fails once more.
        with suppress(OSError):
            self._file.close()


class _NpzWriter(EmbeddingWriter):
    """An array of each column, embeddings and spec; held in memory until the end."""

    def __init__(self, path: Path, spec: Spec, channels: bool) -> None:
        super().__init__(spec, channels)
        self._path = path
        self._held: Columns = {name: [] for name in self._columns}
        self._embeddings: list[NDArray[np.float32]] = []

    def _write(self, columns: Columns, embeddings: NDArray[np.float32]) -> None:
        for name, values in columns.items():
            self._held[name] += values
        self._embeddings.append(embeddings.copy())
        _check_npz(len(self._held["path"]))

    def _finish(self) -> None:
        shape = (len(self._held["path"]), self._spec.embedding_dim)
        names = {"path": "paths"} | {name: f"{name}s" for name in TIMES}
        types = {"path": np.str_, "channel": np.int32} | dict.fromkeys(TIMES, np.float64)
        # As numpy.savez writes it, but for the embeddings, which are never joined in memory.
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            arrays: dict[str, NDArray[Any]] = {
                names.get(name, name): np.array(values, dtype=types.get(name, np.bool_))
                for name, values in self._held.items()
            }
            for name, array in (arrays | {"spec": np.array(self._spec.to_json())}).items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
            with archive.open("embeddings.npy", "w", force_zip64=True) as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for rows in self._embeddings:
                    member.write(rows.astype("<f4", order="C", copy=False).data)

    def _abandon(self) -> None:
        self._embeddings.clear()


class _CsvWriter(EmbeddingWriter):
    """The columns of a row, e0, e1, …; the spec in a file beside it, see ``open_writer``."""

    def __init__(self, path: Path, spec: Spec, channels: bool) -> None:
        super().__init__(spec, channels)
        self._file = path.open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n")
        try:
            self._rows.writerow([*self._columns, *(f"e{i}" for i in range(spec.embedding_dim))])
        except OSError:
            self._abandon()
            raise

    def _write(self, columns: Columns, embeddings: NDArray[np.float32]) -> None:
        # As pandas, polars, Arrow and R read truth values.
        columns |= {
            name: ["true" if value else "false" for value in columns[name]] for name in FLAGS
        }
        for *values, row in zip(*columns.values(), embeddings.tolist(), strict=True):
            # Nine significant digits tell every float32 from its neighbours.
            self._rows.writerow([*values, *[f"{value:.9g}" for value in row]])

    def _finish(self) -> None:
        self._file.close()

    def _abandon(self) -> None:
        # What is still buffered does not fit on a full disk either.
        with suppress(OSError):
            self._file.close()


_WRITERS: dict[str, Callable[[Path, Spec, bool], EmbeddingWriter]] = {
    ".parquet": _ParquetWriter,
    ".npz": _NpzWriter,
    ".csv": _CsvWriter,
}


def _check_npz(clips: int) -> None:
    if clips > NPZ_MAX_CLIPS:
        raise FusionEngineError(
            f"{clips} clips are too many for .npz, which is held in memory, expected at most "
            f"{NPZ_MAX_CLIPS}; write a .parquet file"
        )


@contextmanager
def open_writer(
    path: str | os.PathLike[str],
    spec: Spec,
    *,
    clips: int | None = None,
    channels: bool = False,
) -> Iterator[EmbeddingWriter]:
    """Write embeddings to ``path``, which appears, or is replaced, when the block succeeds.

    - ``.parquet``: ``path: string``, ``start``, ``end`` and ``duration: double``, ``partial``,
      ``silent`` and ``clipped_scale: bool``, ``embedding: fixed_size_list<float>``, and the spec in
      the file's metadata under ``fusion_engine``. Written as rows come in.
    - ``.npz``: ``paths`` [n] text, ``starts``, ``ends`` and ``durations`` [n] float64, ``partial``,
      ``silent`` and ``clipped_scale`` [n] bool, ``embeddings`` [n, D] float32, ``spec`` JSON text;
      for ``numpy.load`` without pickle. At most 100 000 clips.
    - ``.csv``: ``path,start,end,duration,partial,silent,clipped_scale,e0,e1,…`` in UTF-8, with
      ``true`` or ``false``, and numbers that read back to the same float32. CSV has no place for
      metadata: the spec goes to ``PATH.spec.json``.

    With ``channels``, ``channel`` (int32) follows the path.

    Args:
        path: the file; its folder must exist.
        spec: of the artifact that makes the embeddings.
        clips: how many there will be, if known; too many for ``.npz`` are then refused at once.
        channels: the rows are of channels.

    Raises:
        ValueError: another suffix.
        FusionEngineError: the file cannot be written, or too many clips.
    """
    path = Path(path)
    make = _WRITERS.get(path.suffix.lower())
    if make is None:
        raise ValueError(
            f"{path}: cannot write {path.suffix or 'a file without a suffix'}, expected "
            f"{', '.join(_WRITERS)}"
        )
    if make is _NpzWriter and clips is not None:
        _check_npz(clips)
    with atomic_path(path) as temporary:
        writer = make(temporary, spec, channels)
        try:
            yield writer
            writer._finish()
        except BaseException:
            writer._abandon()
            raise
        if make is _CsvWriter:
            with atomic_path(_sidecar(path)) as sidecar:
                sidecar.write_text(spec.to_json() + "\n", encoding="utf-8")


def _sidecar(path: Path) -> Path:
    return Path(f"{path}.spec.json")


def written_beside(path: str | os.PathLike[str]) -> list[Path]:
    """The files that an output is written to, itself first; not all of them always."""
    path = Path(path)
    beside = [_sidecar(path)] if path.suffix.lower() == ".csv" else []
    return [path, *beside, _errors(path)]


def remove_output(path: str | os.PathLike[str]) -> bool:
    """Remove what an earlier run wrote to ``path``; whether there was something.

    Raises:
        FusionEngineError: it cannot be removed.
    """
    output, *beside, _ = written_beside(path)
    there = output.exists()
    for file in (output, *beside):
        try:
            # As when it is written: a link stays a link.
            Path(os.path.realpath(file)).unlink(missing_ok=True)
        except OSError as error:
            raise write_error(file, error) from error
    return there


def _errors(output: str | os.PathLike[str]) -> Path:
    return Path(f"{os.fspath(output)}.errors.jsonl")


class Failures:
    """The files that failed, as ``OUT.errors.jsonl`` beside the output ``OUT``.

    One line ``{"path": …, "reason": …}`` each. The file appears when the ``with`` block ends
    without an exception and something failed; when nothing did, one of an earlier run is removed.

    Args:
        output: the output's path, with its suffix.

    Attributes:
        path: of the errors file.
        count: failures so far.
    """

    def __init__(self, output: str | os.PathLike[str]) -> None:
        self.path = _errors(output)
        self.count = 0
        self._stack = ExitStack()
        self._file: IO[str] | None = None

    def add(self, path: str, reason: str) -> None:
        """Note that ``path`` failed.

        Raises:
            FusionEngineError: the errors file cannot be written.
        """
        if self._file is None:
            temporary = self._stack.enter_context(atomic_path(self.path))
            self._file = self._stack.enter_context(temporary.open("w", encoding="utf-8"))
        try:
            self._file.write(json.dumps({"path": _text(path), "reason": _text(reason)}) + "\n")
        except OSError as error:
            raise write_error(self.path, error) from error
        self.count += 1

    def __enter__(self) -> Self:
        self._stack.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)
        if kind is None and self._file is None:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as reason:
                raise write_error(self.path, reason) from reason
