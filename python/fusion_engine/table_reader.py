"""Tables that ``embed`` wrote, read in blocks: a table may be larger than memory."""

import csv
import hashlib
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._parquet_column import EmbeddingColumn
from .errors import ArtifactError, FusionEngineError
from .output import SPACE_KEY, spec_beside
from .spec import METADATA_KEY, Spec

_BLOCK_BYTES = 2**25
_COLUMNS = ("path", "start", "end", "channel")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a table says of its n rows.

    Args:
        paths: of the recordings, as the table has them.
        start: [n] float64, s.
        end: [n] float64, s.
        channels: [n] int32, from 1; ``None``: the recordings were mixed down.
    """

    paths: list[str]
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    channels: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.paths)


class TableReader(ABC):
    """A table that was opened; made by ``open_table``.

    Attributes:
        path: of the table.
        rows: all but the embeddings.
        dim: D of the embeddings.
        dtype: of the embeddings: float32 or float16.
        spec: of the artifact that made them; ``None``: the table does not say.
        space: digest of the embedding space, as ``Spec.space``; ``None``: the table does not say.
    """

    path: Path
    rows: Rows
    dim: int
    dtype: np.dtype[Any] = np.dtype(np.float32)
    spec: Spec | None = None
    space: str | None = None

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The embeddings in order, as blocks [b, D] of at most 32 MB in their own dtype.

        Read-only.

        Raises:
            FusionEngineError: the file is damaged, or a value is not finite.
        """
        read = 0
        with _readable(self.path):
            for block in self._blocks():
                self._check_finite(block, range(read, read + len(block)))
                read += len(block)
                yield block
        if read != len(self.rows):
            raise FusionEngineError(
                f"{self.path}: {read} embeddings of {len(self.rows)} rows; the file is damaged, "
                "embed again"
            )

    def take(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """The embeddings [n, D] of some rows, in the order of ``rows``, in their own dtype.

        Of Parquet as ``embed`` writes it, the pages of these rows are read; else the whole table.

        Args:
            rows: [n], from 0 on; a row may be there twice.

        Raises:
            IndexError: the table has no such row.
            FusionEngineError: the file is damaged, or a value is not finite.
        """
        numbers = np.asarray(rows, np.intp)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self.rows):
            raise IndexError(f"rows {list(rows)}, expected 0 to {len(self.rows) - 1}")
        with _readable(self.path):
            taken = self._take(numbers)
        self._check_finite(taken, numbers)
        return taken

    def fingerprint(self) -> str:
        """What tells this table from others, 16 hex digits.

        Of Parquet and ``.npz`` as ``embed`` writes them the checksums that they hold are read, of
        others everything.

        Raises:
            FusionEngineError: the file is damaged.
        """
        digest = hashlib.sha256(f"{self.dtype} {self.dim} {self.space}".encode())
        rows = self.rows
        digest.update("\0".join(rows.paths).encode())
        for column in (rows.start, rows.end, rows.channels):
            digest.update(b"" if column is None else np.ascontiguousarray(column).data)
        with _readable(self.path):
            for part in self._bytes():
                digest.update(part)
        return digest.hexdigest()[:16]

    @property
    def block_rows(self) -> int:
        """Rows of a block, at most."""
        return max(1, _BLOCK_BYTES // (self.dtype.itemsize * self.dim))

    def _check_finite(self, block: NDArray[Any], rows: Sequence[int] | NDArray[np.intp]) -> None:
        if not _all_finite(block):
            row = rows[int(np.argmin(np.isfinite(block).all(axis=1)))]
            raise FusionEngineError(
                f"{self.path}: the embedding of row {row} ({self.rows.paths[row]}) is not "
                "finite; embed the recording again, or drop the row"
            )

    @abstractmethod
    def _blocks(self) -> Iterator[NDArray[Any]]:
        """The embeddings as they are kept."""

    def _take(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        taken, first = np.empty((len(rows), self.dim), self.dtype), 0
        for block in self._blocks():
            here = (first <= rows) & (rows < first + len(block))
            taken[here] = block[rows[here] - first]
            first += len(block)
        return taken

    @abstractmethod
    def _bytes(self) -> Iterator[bytes]:
        """Of the file, what changes with the embeddings."""


def _all_finite(block: NDArray[Any]) -> bool:
    """By their bits, which for halves is ten times as fast as ``isfinite``."""
    if not block.size:
        return True
    size = block.dtype.itemsize
    infinities = np.array([np.inf, -np.inf], block.dtype).view(f"u{size}")
    positive, negative = block.view(f"i{size}").max(), block.view(f"u{size}").max()
    return bool(positive < infinities[0] and negative < infinities[1])


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of the libraries as one that names the file."""
    try:
        yield
    # pyarrow's own errors are these too.
    except (ValueError, KeyError, OSError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FusionEngineError(
            f"{path}: not a table that `fusion-engine embed` writes ({error})"
        ) from error


class _Parquet(TableReader):
    def __init__(self, path: Path, files: list[Path]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path, self._files, self._column = path, files, EmbeddingColumn(files)
        self.dim, self.dtype = self._column.dim, self._column.dtype
        schema = pq.read_schema(files[0])
        columns = [name for name in _COLUMNS if name != "channel" or name in schema.names]
        table = pa.concat_tables([pq.read_table(file, columns=columns) for file in files])
        self.rows = Rows(
            paths=table["path"].to_pylist(),
            start=table["start"].to_numpy().astype(np.float64),
            end=table["end"].to_numpy().astype(np.float64),
            channels=table["channel"].to_numpy() if "channel" in columns else None,
        )
        self.space = _said(schema, SPACE_KEY)
        text = _said(schema, METADATA_KEY)
        self.spec = None if text is None else _spec(text)
        for file in files[1:]:
            if _said(pq.read_schema(file), SPACE_KEY) != self.space:
                raise FusionEngineError(
                    f"{file}: of another embedding space than {files[0].name}, expected parts of "
                    "one table; embed into a folder of its own"
                )

    def _blocks(self) -> Iterator[NDArray[Any]]:
        return self._column.blocks(self.block_rows)

    def _take(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        return self._column.take(rows) if self._column.takes else super()._take(rows)

    def _bytes(self) -> Iterator[bytes]:
        if (checksums := self._column.checksums()) is not None:
            yield checksums
        else:
            for file in self._files:
                yield from _content(file)


class _Npz(TableReader):
    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            self.rows = Rows(
                paths=archive["paths"].tolist(),
                start=archive["starts"],
                end=archive["ends"],
                channels=archive["channel"] if "channel" in archive.files else None,
            )
            if "spec" in archive.files:
                self.spec = _spec(str(archive["spec"]))
            if "space" in archive.files:
                self.space = str(archive["space"])
        with zipfile.ZipFile(path) as archive, archive.open("embeddings.npy") as member:
            (_, self.dim), self.dtype = self._header(member)

    @staticmethod
    def _header(member: Any) -> tuple[tuple[int, int], np.dtype[Any]]:
        np.lib.format.read_magic(member)
        (rows, dim), fortran, dtype = np.lib.format.read_array_header_1_0(member)
        if fortran:
            raise ValueError("embeddings are in Fortran order, expected C order")
        return (rows, dim), dtype

    def _bytes(self) -> Iterator[bytes]:
        with zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                yield f"{member.filename} {member.file_size} {member.CRC}".encode()

    def _blocks(self) -> Iterator[NDArray[Any]]:
        with zipfile.ZipFile(self.path) as archive, archive.open("embeddings.npy") as member:
            self._header(member)
            size = self.block_rows * self.dim * self.dtype.itemsize
            while data := member.read(size):
                yield np.frombuffer(data, self.dtype).reshape(-1, self.dim)


class _Csv(TableReader):
    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), [])
        self._values = [name for name in header if name[:1] == "e" and name[1:].isdecimal()]
        self.dim = len(self._values)
        if not self.dim:
            raise ValueError("no columns e0, e1, …")
        columns = [name for name in _COLUMNS if name != "channel" or name in header]
        paths, numbers = list[str](), [np.empty((0, len(columns) - 1))]
        for batch in self._batches(columns):
            paths += batch.column("path").to_pylist()
            numbers.append(np.column_stack([batch.column(name).to_numpy() for name in columns[1:]]))
        start, end, *channel = np.concatenate(numbers).T
        channels = channel[0].astype(np.int32) if channel else None
        self.rows = Rows(paths=paths, start=start, end=end, channels=channels)
        if spec_beside(path).exists():
            self.spec = _spec(spec_beside(path).read_text("utf-8"))
            self.space = None if self.spec is None else self.spec.space

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.csv

        # Said outright: names and values may look like something else.
        kind = pa.float32() if columns is self._values else pa.float64()
        types = dict.fromkeys(columns, kind) | {"path": pa.string()}
        with pa.csv.open_csv(
            self.path,
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                include_columns=columns, column_types=types, null_values=[]
            ),
        ) as reader:
            yield from reader

    def _blocks(self) -> Iterator[NDArray[Any]]:
        for batch in self._batches(self._values):
            yield np.column_stack([column.to_numpy() for column in batch.columns])

    def _bytes(self) -> Iterator[bytes]:
        return _content(self.path)


def _content(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(2**20):
            yield part


def open_table(path: str | os.PathLike[str]) -> TableReader:
    """Open a table that ``embed`` wrote: ``.parquet``, a folder of them, ``.npz`` or ``.csv``.

    Raises:
        FusionEngineError: there is none, it is none, or it has no rows.
    """
    path = Path(path)
    if not path.exists():
        raise FusionEngineError(f"{path}: no such table{_all_failed(path)}")
    with _readable(path):
        table = _open(path)
    if not len(table.rows):
        raise FusionEngineError(f"{path}: the table has no rows{_all_failed(path)}")
    return table


def _open(path: Path) -> TableReader:
    if path.is_dir():
        files = sorted(path.glob("part-*.parquet"))
        if not files:
            raise ValueError("the folder holds no part-000000.parquet")
        return _Parquet(path, files)
    match path.suffix.lower():
        case ".parquet":
            return _Parquet(path, [path])
        case ".npz":
            return _Npz(path)
        case ".csv":
            return _Csv(path)
    raise ValueError(f"the suffix is {path.suffix!r}, expected .parquet, .npz or .csv")


def _all_failed(path: Path) -> str:
    """What ``embed`` leaves where no file could be embedded."""
    errors = Path(f"{path}.errors.jsonl")
    return f"; the reasons why files failed are in {errors}" if errors.exists() else ""


def _said(schema: Any, key: str) -> str | None:
    """What a Parquet file's metadata say."""
    text = (schema.metadata or {}).get(key.encode())
    return None if text is None else text.decode()


def _spec(text: str) -> Spec | None:
    try:
        return Spec.from_json(text)
    except ArtifactError:
        return None  # of a later version: the embeddings can be read all the same
