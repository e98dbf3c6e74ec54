"""Tables that ``embed`` wrote, read in blocks: a table may be larger than memory."""

import csv
import hashlib
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ArtifactError, FusionEngineError
from .output import SPACE_KEY, spec_beside
from .spec import METADATA_KEY, Spec

_BLOCK_BYTES = 2**25
_BUFFER_BYTES = 2**20
# Of each row group, of which a fingerprint holds the start.
_START_BYTES = 2**16
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
        return chain.from_iterable(self.parts())

    def parts(self) -> Iterator[Iterator[NDArray[Any]]]:
        """``blocks``, cut where threads may read on their own: at Parquet's row groups."""
        for part in self._parts():
            yield self._finite(*part)

    def take(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """The embeddings [n, D] of some rows, in the order of ``rows``, in their own dtype.

        Of Parquet the row groups that hold them are read, of other files everything.

        Args:
            rows: [n], from 0 on; a row may be there twice.

        Raises:
            IndexError: the table has no such row.
            FusionEngineError: the file is damaged, or a value is not finite.
        """
        numbers = np.asarray(rows, np.intp)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self.rows):
            raise IndexError(f"rows {list(rows)}, expected 0 to {len(self.rows) - 1}")
        taken = np.empty((len(numbers), self.dim), self.dtype)
        for part, blocks in self._parts():
            if _within(numbers, part).any():
                for here, block in self._whole(part, blocks):
                    places = _within(numbers, here)
                    taken[places] = block[numbers[places] - here.start]
        self._check_finite(taken, numbers)
        return taken

    def fingerprint(self) -> str:
        """What tells this table from others, 16 hex digits, without reading all of it.

        Of everything but the embeddings, and of these: in Parquet the file's footer, which says
        where each row group lies, and the first 64 KiB of each; in ``.npz`` the checksums; CSV as a
        whole. So another table, rows in another order and embeddings that were made again have
        another one. One value that was changed later in a row group of Parquet need not.

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

    def _finite(self, part: range, blocks: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        for here, block in self._whole(part, blocks):
            self._check_finite(block, here)
            yield block

    def _whole(
        self, part: range, blocks: Iterator[NDArray[Any]]
    ) -> Iterator[tuple[range, NDArray[Any]]]:
        """The blocks of a part with their rows, which must be all of it."""
        first = part.start
        with _readable(self.path):
            for block in blocks:
                yield range(first, first + len(block)), block
                first += len(block)
        if first != part.stop:
            raise FusionEngineError(
                f"{self.path}: {first - part.start} embeddings of {len(part)} rows; the file is "
                "damaged, embed again"
            )

    def _check_finite(self, block: NDArray[Any], rows: Sequence[int] | NDArray[np.intp]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        # NumPy takes three times as long for halves.
        if not pc.all(pc.is_finite(pa.array(block.ravel())), min_count=0).as_py():
            row = rows[int(np.argmin(np.isfinite(block).all(axis=1)))]
            raise FusionEngineError(
                f"{self.path}: the embedding of row {row} ({self.rows.paths[row]}) is not "
                "finite; embed the recording again, or drop the row"
            )

    @abstractmethod
    def _parts(self) -> Iterator[tuple[range, Iterator[NDArray[Any]]]]:
        """Rows, and their embeddings as they are kept."""

    @abstractmethod
    def _bytes(self) -> Iterator[bytes]:
        """Of the file, what changes with the embeddings."""


def _within(numbers: NDArray[np.intp], rows: range) -> NDArray[np.bool_]:
    return (rows.start <= numbers) & (numbers < rows.stop)


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

        self.path = path
        self._files = [(file, pq.read_metadata(file)) for file in files]
        schema = pq.read_schema(files[0])
        kind = schema.field("embedding").type
        if not pa.types.is_fixed_size_list(kind):
            raise ValueError(f"the column embedding is {kind}, expected a list of one fixed size")
        self.dim, self.dtype = kind.list_size, np.dtype(kind.value_type.to_pandas_dtype())
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

    def _parts(self) -> Iterator[tuple[range, Iterator[NDArray[Any]]]]:
        first = 0
        for file, metadata in self._files:
            for group in range(metadata.num_row_groups):
                stop = first + metadata.row_group(group).num_rows
                yield range(first, stop), self._group(file, metadata, group)
                first = stop

    def _group(self, file: Path, metadata: Any, group: int) -> Iterator[NDArray[Any]]:
        import pyarrow.parquet as pq

        # Page by page: a row group of other writers may be larger than memory.
        with pq.ParquetFile(
            file,
            metadata=metadata,
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        ) as parquet:
            for batch in parquet.iter_batches(
                self.block_rows, row_groups=[group], columns=["embedding"]
            ):
                values = batch.column(0).flatten().to_numpy(zero_copy_only=False)
                yield values.reshape(-1, self.dim)

    def _bytes(self) -> Iterator[bytes]:
        for path, metadata in self._files:
            names = [metadata.schema.column(n).path for n in range(metadata.num_columns)]
            column = next(n for n, name in enumerate(names) if name.split(".")[0] == "embedding")
            with path.open("rb") as file:
                file.seek(-metadata.serialized_size - 8, os.SEEK_END)
                yield file.read()
                for group in range(metadata.num_row_groups):
                    chunk = metadata.row_group(group).column(column)
                    file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
                    yield file.read(min(_START_BYTES, chunk.total_compressed_size))


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

    def _parts(self) -> Iterator[tuple[range, Iterator[NDArray[Any]]]]:
        yield range(len(self.rows)), self._blocks()

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

    def _parts(self) -> Iterator[tuple[range, Iterator[NDArray[Any]]]]:
        yield range(len(self.rows)), self._blocks()

    def _bytes(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while part := file.read(_BUFFER_BYTES):
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
