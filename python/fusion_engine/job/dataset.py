"""A Parquet dataset: a folder of files of bounded size, whose order is that of their names."""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .._sync import sync
from ..output import ParquetWriter, Row, Table

# Embeddings of a file, about.
_FILE_BYTES = 2**29
_FILE = re.compile(r"part-\d{6,}\.parquet")


class DatasetWriter:
    """Writes ``part-000000.parquet``, ``part-000001.parquet`` …; a context manager.

    Args:
        folder: exists and is empty.
        table: what it holds.
    """

    def __init__(self, folder: Path, table: Table) -> None:
        self._folder, self._table = folder, table
        self._file_rows = max(1, _FILE_BYTES // table.row_bytes)
        self._stack = ExitStack()
        self._writer: ParquetWriter | None = None
        self._path = folder
        self._files = self._room = 0

    def write(self, rows: Sequence[Row], embeddings: NDArray[np.float32]) -> None:
        """Append n rows, embeddings [n, D]; errors as ``EmbeddingWriter.write``."""
        while rows:
            if self._writer is None or not self._room:
                self._writer = self._next_file()
            taken = min(self._room, len(rows))
            self._writer.write(rows[:taken], embeddings[:taken])
            rows, embeddings = rows[taken:], embeddings[taken:]
            self._room -= taken

    def _next_file(self) -> ParquetWriter:
        self._finish_file()
        self._path = self._folder / f"part-{self._files:06d}.parquet"
        self._files += 1
        self._room = self._file_rows
        writer = ParquetWriter(self._path, self._table, metadata=self._table.metadata)
        return self._stack.enter_context(writer)

    def _finish_file(self) -> None:
        self._stack.close()
        sync(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)
        if kind is None:
            sync(self._path)
            sync(self._folder)


def is_dataset_file(path: Path) -> bool:
    """Whether ``path`` has a name that ``DatasetWriter`` gives."""
    return _FILE.fullmatch(path.name) is not None


def first_file(folder: Path) -> Path:
    """The file of the first rows."""
    return folder / "part-000000.parquet"
