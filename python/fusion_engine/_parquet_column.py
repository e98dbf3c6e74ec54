"""The embeddings of Parquet files, in order or some of them."""

import mmap
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._parquet_pages import Page, is_plain, plain_pages


class EmbeddingColumn:
    """A column ``embedding`` of files of one schema.

    Attributes:
        dim: D.
        dtype: of the values.
        takes: whether ``take`` reads some rows without the others.

    Raises:
        ValueError: the column is no list of one fixed size.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kind = pq.read_schema(files[0]).field("embedding").type
        if not pa.types.is_fixed_size_list(kind):
            raise ValueError(f"the column embedding is {kind}, expected a list of one fixed size")
        self.dim, self.dtype = kind.list_size, np.dtype(kind.value_type.to_pandas_dtype())
        # File, number in it, what its metadata say of the column.
        self._groups: list[tuple[Path, int, Any]] = []
        counts = [0]
        for file in files:
            metadata = pq.read_metadata(file)
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                self._groups.append((file, number, _embedding(group)))
                counts.append(group.num_rows)
        self._starts = np.cumsum(counts)
        self.takes = all(is_plain(chunk) for _, _, chunk in self._groups)

    def blocks(self, rows: int) -> Iterator[NDArray[Any]]:
        """Blocks [b, D] of at most so many rows.

        Raises:
            ValueError: a file is damaged.
        """
        for file, number, chunk in self._groups:
            values = self._plain(file, chunk) if is_plain(chunk) else _read(file, number, rows)
            yield from self._in_rows(values, rows)

    def take(self, rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Some rows [n, D], in any order; only where ``takes``.

        Raises:
            ValueError: a file is damaged.
        """
        taken = np.empty((len(rows), self.dim), self.dtype)
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        for group in np.unique(groups):
            file, _, chunk = self._groups[group]
            places = np.flatnonzero(groups == group)
            begins = (rows[places] - self._starts[group]) * self.dim
            first = 0
            for page in plain_pages(_mapped(file), chunk):
                stop = first + page.count
                for place, begin in zip(places, begins, strict=True):
                    low, high = max(begin, first), min(begin + self.dim, stop)
                    if low < high:
                        values = page.values(self.dtype)[low - first : high - first]
                        taken[place, low - begin : high - begin] = values
                first = stop
        return taken

    def checksums(self) -> bytes | None:
        """Of all pages, as the files hold them; ``None``: some have none."""
        if not self.takes:
            return None
        found = list[bytes]()
        for file, _, chunk in self._groups:
            for page in plain_pages(_mapped(file), chunk):
                if page.checksum is None:
                    return None
                found.append(page.checksum.to_bytes(4, "little"))
        return b"".join(found)

    def _plain(self, file: Path, chunk: Any) -> Iterator[NDArray[Any]]:
        data = _mapped(file)
        page: Page
        for page in plain_pages(data, chunk):
            yield page.values(self.dtype)
        # Or a table that was read once fills this process's memory, as the system counts it.
        begin = chunk.data_page_offset // mmap.PAGESIZE * mmap.PAGESIZE
        data.madvise(mmap.MADV_DONTNEED, begin, chunk.total_compressed_size)

    def _in_rows(self, values: Iterator[NDArray[Any]], rows: int) -> Iterator[NDArray[Any]]:
        """Values of one row group, in whole rows."""
        held, size = list[NDArray[Any]](), 0
        for part in chain(values, [None]):
            if part is not None:
                held.append(part)
                size += len(part)
            if size and (part is None or size >= rows * self.dim):
                flat = np.concatenate(held)
                whole = size - size % self.dim
                block = flat[:whole].reshape(-1, self.dim)
                for first in range(0, len(block), rows):
                    yield block[first : first + rows]
                held, size = [flat[whole:]], size - whole
        if size:
            raise ValueError(f"the last embedding has {size} values of {self.dim}")


def _embedding(group: Any) -> Any:
    """What the metadata of a row group say of the column."""
    columns = (group.column(number) for number in range(group.num_columns))
    return next(c for c in columns if c.path_in_schema.split(".")[0] == "embedding")


def _mapped(file: Path) -> mmap.mmap:
    with file.open("rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


def _read(file: Path, group: int, rows: int) -> Iterator[NDArray[Any]]:
    """The values of a row group of any encoding."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, memory_map=True, page_checksum_verification=True) as parquet:
        for batch in parquet.iter_batches(rows, row_groups=[group], columns=["embedding"]):
            yield batch.column(0).flatten().to_numpy(zero_copy_only=False)
