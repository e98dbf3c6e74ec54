"""Embeddings to a file: Parquet, NumPy's `.npz` or CSV, by the suffix of its name.

All three hold one row per clip: what ``Row`` says of it, and its embedding. A file appears whole,
when its writer is left without an exception, or not at all.
"""

import csv
import json
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ._atomic import atomic_path, write_error
from ._sync import sync
from .errors import FusionEngineError
from .spec import METADATA_KEY, Spec

NPZ_MAX_CLIPS = 100_000
JOB_KEY = "fusion_engine_job"
SPACE_KEY = "fusion_engine_space"

Dtype = Literal["float32", "float16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

# Parquet rows are written in groups of about this many bytes of embeddings.
_ROW_GROUP_BYTES = 2**24


Columns = dict[str, list[Any]]


def valid_text(path: str) -> str:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLayout:
    """How rows are kept.

    Args:
        embedding_dim: D.
        channels: the rows are of channels, and have a column for it.
        dtype: of the embeddings as they are kept.
    """

    embedding_dim: int
    channels: bool = False
    dtype: Dtype = "float32"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns beside the embedding."""
        return ("path", *(("channel",) if self.channels else ()), *TIMES, *FLAGS)

    @property
    def row_bytes(self) -> int:
        """Of an embedding."""
        return self.embedding_dim * np.dtype(self.dtype).itemsize

    def check(self, rows: Sequence[Row], embeddings: NDArray[np.float32]) -> None:
        """Refuse rows that do not fit.

        Raises:
            ValueError: another shape or dtype, or a channel with or without a column for it.
            FusionEngineError: a value beyond the range of ``dtype``.
        """
        expected = (len(rows), self.embedding_dim)
        if embeddings.shape != expected:
            raise ValueError(
                f"{len(rows)} rows and embeddings of shape {list(embeddings.shape)}, expected "
                f"embeddings of shape {list(expected)}"
            )
        if any((row.channel is not None) != self.channels for row in rows):
            raise ValueError(f"expected {'a' if self.channels else 'no'} channel in every row")
        if embeddings.dtype != np.float32:
            raise ValueError(f"embeddings are {embeddings.dtype}, expected float32")
        if self.dtype == "float16":
            _check_half(rows, embeddings)

    def cast(self, embeddings: NDArray[np.float32]) -> NDArray[Any]:
        """A copy of embeddings that were checked, as they are kept."""
        return embeddings.astype(self.dtype, order="C")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(RowLayout):
    """What holds for every row of an output.

    Args:
        spec: of the embeddings: the artifact's, with the head and the normalisation that were used.
        job: JSON about the run that writes it; ``None``: nothing is said.
    """

    spec: Spec
    job: str | None = None

    @property
    def metadata(self) -> dict[str, str]:
        """Text that goes along with the rows, by name."""
        job = {} if self.job is None else {JOB_KEY: self.job}
        return {METADATA_KEY: self.spec.to_json(), SPACE_KEY: self.spec.space} | job


def _check_half(rows: Sequence[Row], embeddings: NDArray[np.float32]) -> None:
    with np.errstate(over="ignore"):
        beyond = np.isinf(embeddings.astype(np.float16)) & np.isfinite(embeddings)
    if beyond.any():
        number, column = np.argwhere(beyond)[0]
        row = rows[number]
        raise FusionEngineError(
            f"{row.path}: the embedding of {row.start:g} s to {row.end:g} s holds "
            f"{embeddings[number, column]:g}, expected at most 65504, the largest float16; keep "
            "float32"
        )


def _as_kept(
    layout: RowLayout, rows: Sequence[Row], embeddings: NDArray[np.float32]
) -> tuple[Columns, NDArray[Any]]:
    """Rows by column, and a copy of their embeddings.

    Raises:
        ValueError, FusionEngineError: as ``RowLayout.check``.
    """
    layout.check(rows, embeddings)
    columns = {name: [getattr(row, name) for row in rows] for name in layout.columns}
    columns["path"] = [valid_text(path) for path in columns["path"]]
    return columns, layout.cast(embeddings)


def arrow_schema(layout: RowLayout) -> Any:
    """The ``pyarrow.Schema`` of a Parquet file, without its metadata."""
    import pyarrow as pa

    types = {"path": pa.string(), "channel": pa.int32()} | dict.fromkeys(TIMES, pa.float64())
    types |= dict.fromkeys(FLAGS, pa.bool_())
    value = pa.float16() if layout.dtype == "float16" else pa.float32()
    vector = pa.list_(value, layout.embedding_dim)
    return pa.schema(
        [
            *(pa.field(name, types[name], nullable=False) for name in layout.columns),
            pa.field("embedding", vector, nullable=False),
        ]
    )


def arrow_batch(
    layout: RowLayout, schema: Any, rows: Sequence[Row], embeddings: NDArray[np.float32]
) -> Any:
    """n rows as a ``pyarrow.RecordBatch``.

    Args:
        layout: of the rows.
        schema: ``arrow_schema`` of it.
        rows: n clips.
        embeddings: [n, D] float32.

    Raises:
        ValueError, FusionEngineError: as ``RowLayout.check``.
    """
    return _arrow_batch(schema, *_as_kept(layout, rows, embeddings))


def _arrow_batch(schema: Any, columns: Columns, embeddings: NDArray[Any]) -> Any:
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(embeddings.reshape(-1)), type=schema.field("embedding").type
    )
    arrays = [pa.array(values, schema.field(name).type) for name, values in columns.items()]
    return pa.record_batch([*arrays, vectors], schema=schema)


class EmbeddingWriter(ABC):
    """Takes rows as they come; made by ``open_writer``.

    A context manager: the file is finished, or let go of where the block raises.
    """

    def __init__(self, layout: RowLayout) -> None:
        self._layout = layout

    def write(self, rows: Sequence[Row], embeddings: NDArray[np.float32]) -> None:
        """Append n rows.

        Args:
            rows: n clips.
            embeddings: [n, D] float32.

        Raises:
            ValueError: another shape or dtype, or a channel with or without a column for it.
            FusionEngineError: more clips than the format is for, a value beyond the range of
                float16 where that is written, or a full disk.
        """
        self._write(*_as_kept(self._layout, rows, embeddings))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            self._finish()
        except BaseException:
            self._abandon()
            raise

    @abstractmethod
    def _write(self, columns: Columns, embeddings: NDArray[Any]) -> None:
        """Append rows, given by column; the embeddings are the writer's own."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what is still held and close the file."""

    @abstractmethod
    def _abandon(self) -> None:
        """Let go of the file, whatever is in it."""


class ParquetWriter(EmbeddingWriter):
    """The columns of a row and embedding; the spec in the metadata under ``fusion_engine``.

    The same rows give the same bytes, however they were put together in calls of ``write``.

    Args:
        path: the file.
        layout: of the rows.
        metadata: of the file.
        group_bytes: of the embeddings of a row group, about.
    """

    def __init__(
        self,
        path: Path,
        layout: RowLayout,
        *,
        metadata: Mapping[str, str],
        group_bytes: int | None = None,
    ) -> None:
        import pyarrow.parquet as pq

        super().__init__(layout)
        self._schema = arrow_schema(layout).with_metadata(dict(metadata))
        # Neither a dictionary nor compression makes floats smaller.
        self._file = pq.ParquetWriter(
            path,
            self._schema,
            use_dictionary=False,
            compression="none",
            version="2.6",
            write_page_checksum=True,
        )
        self._group_rows = max(1, (group_bytes or _ROW_GROUP_BYTES) // layout.row_bytes)
        self._held: list[Any] = []
        self._held_rows = 0

    def write_arrow(self, rows: Any) -> None:
        """Append rows that ``arrow_batch`` made: a ``pyarrow.Table`` with the file's columns."""
        self._hold(rows.cast(self._schema).to_batches())

    def _write(self, columns: Columns, embeddings: NDArray[Any]) -> None:
        self._hold([_arrow_batch(self._schema, columns, embeddings)])

    def _hold(self, batches: Sequence[Any]) -> None:
        self._held += batches
        self._held_rows += sum(map(len, batches))
        while self._held_rows >= self._group_rows:
            self._write_group()

    def _write_group(self) -> None:
        """Write the rows of a group, or those that are left."""
        import pyarrow as pa

        held = pa.Table.from_batches(self._held, self._schema)
        # As one piece: where it was put together would show in the pages.
        group = held.slice(0, self._group_rows).combine_chunks()
        self._file.write_table(group, row_group_size=self._group_rows)
        rest = held.slice(self._group_rows)
        self._held, self._held_rows = rest.to_batches(), len(rest)

    def _finish(self) -> None:
        if self._held_rows:
            self._write_group()
        self._file.close()

    def _abandon(self) -> None:
        # It writes a footer, which on a full disk fails once more.
        with suppress(OSError):
            self._file.close()


class _NpzWriter(EmbeddingWriter):
    """An array of each column, embeddings and spec; held in memory until the end."""

    def __init__(self, path: Path, table: Table) -> None:
        super().__init__(table)
        self._path, self._table = path, table
        self._held: Columns = {name: [] for name in table.columns}
        self._embeddings: list[NDArray[Any]] = []

    def _write(self, columns: Columns, embeddings: NDArray[Any]) -> None:
        for name, values in columns.items():
            self._held[name] += values
        self._embeddings.append(embeddings)
        check_clips(self._path, len(self._held["path"]))

    def _finish(self) -> None:
        shape = (len(self._held["path"]), self._table.embedding_dim)
        dtype = np.dtype(self._table.dtype).newbyteorder("<")
        names = {"path": "paths"} | {name: f"{name}s" for name in TIMES}
        types = {"path": np.str_, "channel": np.int32} | dict.fromkeys(TIMES, np.float64)
        # As numpy.savez writes it, but for the embeddings, which are never joined in memory.
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            arrays: dict[str, NDArray[Any]] = {
                names.get(name, name): np.array(values, dtype=types.get(name, np.bool_))
                for name, values in self._held.items()
            }
            spec = self._table.spec
            texts = {"spec": spec.to_json(), "space": spec.space, "job": self._table.job}
            arrays |= {name: np.array(text) for name, text in texts.items() if text is not None}
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
            with archive.open("embeddings.npy", "w", force_zip64=True) as member:
                header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for rows in self._embeddings:
                    member.write(rows.astype(dtype, copy=False).data)

    def _abandon(self) -> None:
        self._embeddings.clear()


class _CsvWriter(EmbeddingWriter):
    """The columns of a row, e0, e1, …; the spec in a file beside it, see ``open_writer``."""

    def __init__(self, path: Path, table: Table) -> None:
        super().__init__(table)
        self._file = path.open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n")
        try:
            values = (f"e{i}" for i in range(table.embedding_dim))
            self._rows.writerow([*table.columns, *values])
        except OSError:
            self._abandon()
            raise

    def _write(self, columns: Columns, embeddings: NDArray[Any]) -> None:
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


_WRITERS: dict[str, Callable[[Path, Table], EmbeddingWriter]] = {
    ".parquet": lambda path, table: ParquetWriter(path, table, metadata=table.metadata),
    ".npz": _NpzWriter,
    ".csv": _CsvWriter,
}


def check_format(path: str | os.PathLike[str], dtype: Dtype = "float32") -> None:
    """Refuse what ``open_writer`` does not write.

    Raises:
        ValueError: another suffix or dtype, or float16 in a CSV file.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise ValueError(
            f"{path}: cannot write {path.suffix or 'a file without a suffix'}, expected "
            f"{', '.join(_WRITERS)}"
        )
    check_dtype(dtype)
    if dtype != "float32" and path.suffix.lower() == ".csv":
        raise ValueError(
            f"{path}: {dtype} makes no text shorter, expected float32; write .parquet or .npz for "
            f"{dtype}"
        )


def check_dtype(dtype: str) -> None:
    """Refuse a dtype that embeddings are not kept in.

    Raises:
        ValueError: it is one.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected {' or '.join(DTYPES)}")


def check_clips(path: str | os.PathLike[str], clips: int) -> None:
    """Refuse more clips than the format of ``path`` is for.

    Raises:
        FusionEngineError: they are too many.
    """
    if os.fspath(path).lower().endswith(".npz") and clips > NPZ_MAX_CLIPS:
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
    dtype: Dtype = "float32",
    job: str | None = None,
) -> Iterator[EmbeddingWriter]:
    """Write embeddings to ``path``, which appears, or is replaced, when the block succeeds.

    - ``.parquet``: ``path: string``, ``start``, ``end`` and ``duration: double``, ``partial``,
      ``silent`` and ``clipped_scale: bool``, ``embedding: fixed_size_list<float>``, and the spec in
      the file's metadata under ``fusion_engine``, ``Spec.space`` under ``fusion_engine_space``.
      Written as rows come in.
    - ``.npz``: ``paths`` [n] text, ``starts``, ``ends`` and ``durations`` [n] float64, ``partial``,
      ``silent`` and ``clipped_scale`` [n] bool, ``embeddings`` [n, D] float32, ``spec`` JSON text,
      ``space``; for ``numpy.load`` without pickle. At most 100 000 clips.
    - ``.csv``: ``path,start,end,duration,partial,silent,clipped_scale,e0,e1,…`` in UTF-8, with
      ``true`` or ``false``, and numbers that read back to the same float32. CSV has no place for
      metadata: the spec goes to ``PATH.spec.json``, and ``job`` to ``PATH.job.json``.

    With ``channels``, ``channel`` (int32) follows the path. With float16, the embeddings are
    ``fixed_size_list<halffloat>`` or [n, D] float16, rounded to nearest.

    Args:
        path: the file; its folder must exist.
        spec: of the embeddings: the artifact's, with the head and the normalisation that were used.
        clips: how many there will be, if known; too many for ``.npz`` are then refused at once.
        channels: the rows are of channels.
        dtype: of the embeddings in the file.
        job: JSON about the run: in Parquet's metadata under ``fusion_engine_job``, in the array
            ``job`` of ``.npz``.

    Raises:
        ValueError: another suffix or dtype, or float16 in a CSV file.
        FusionEngineError: the file cannot be written, or too many clips.
    """
    path = Path(path)
    check_format(path, dtype)
    if clips is not None:
        check_clips(path, clips)
    dim = spec.embedding_dim
    table = Table(spec=spec, embedding_dim=dim, channels=channels, dtype=dtype, job=job)
    suffix = path.suffix.lower()
    with atomic_path(path) as temporary:
        with _WRITERS[suffix](temporary, table) as writer:
            yield writer
        sync(temporary)
        if suffix == ".csv":
            _write_text(spec_beside(path), spec.to_json())
            _write_text(_job_beside(path), job)


def _write_text(path: Path, text: str | None) -> None:
    """A line of text as a file; without one, none is left of an earlier run."""
    if text is None:
        remove_file(path)
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
        sync(temporary)


def spec_beside(path: Path) -> Path:
    """The file that holds a CSV table's spec."""
    return Path(f"{path}.spec.json")


def _job_beside(path: Path) -> Path:
    return Path(f"{path}.job.json")


def read_job(path: str | os.PathLike[str]) -> str | None:
    """What ``open_writer`` was given as ``job`` when it wrote ``path``.

    Returns:
        ``None`` where there was nothing, or where ``path`` is no such file.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        match path.suffix.lower():
            case ".parquet":
                import pyarrow.parquet as pq

                return str((pq.read_metadata(path).metadata or {})[JOB_KEY.encode()], "utf-8")
            case ".npz":
                with np.load(path, allow_pickle=False) as archive:
                    return str(archive["job"])
            case ".csv":
                return _job_beside(path).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass
    return None


def written_beside(path: str | os.PathLike[str]) -> list[Path]:
    """The files that an output is written to, itself first; not all of them always."""
    path = Path(path)
    beside = [spec_beside(path), _job_beside(path)] if path.suffix.lower() == ".csv" else []
    return [path, *beside, _errors(path)]


def remove_output(path: str | os.PathLike[str]) -> bool:
    """Remove what an earlier run wrote to ``path``; whether there was something.

    Raises:
        FusionEngineError: it cannot be removed.
    """
    output, *beside, _ = written_beside(path)
    there = output.exists()
    for file in (output, *beside):
        remove_file(file)
    return there


def remove_file(path: Path) -> None:
    """Remove a file, if there is one.

    Raises:
        FusionEngineError: it cannot be removed.
    """
    try:
        # As when it is written: a link stays a link.
        Path(os.path.realpath(path)).unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


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
            self._file.write(
                json.dumps({"path": valid_text(path), "reason": valid_text(reason)}) + "\n"
            )
        except OSError as error:
            raise write_error(self.path, error) from error
        self.count += 1

    def close(self) -> None:
        """Put the errors file in place now; nothing is noted afterwards.

        Raises:
            FusionEngineError: it cannot be written or removed.
        """
        self.__exit__(None, None, None)

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
            remove_file(self.path)
