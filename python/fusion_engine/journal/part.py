"""Parts: Parquet files of rows, with the events of their keys in the metadata."""

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._atomic import atomic_path, write_error
from .._sync import sync
from ..errors import FusionEngineError
from ..output import ParquetWriter, Row, RowLayout, arrow_schema, valid_text
from .events import Added, JournalEvent, from_text, to_text
from .index import Place

_KEY = "fusion_engine_part"
_NAME = re.compile(r"part-(\d{6,})\.parquet")
# Small, for rows may be wanted in any order.
_GROUP_BYTES = 2**18
_OPEN_PARTS = 8

Batch = tuple[Sequence[Row], NDArray[np.float32]]


class DamagedPart(FusionEngineError):
    """A part that was not written to its end, or has changed since.

    Attributes:
        path: of the part.
        part: its number.
        reason: what was found.
    """

    def __init__(self, folder: Path, part: int, reason: object) -> None:
        self.path, self.part, self.reason = part_path(folder, part), part, reason
        super().__init__(
            f"cannot read {self.path}: {reason}; remove it and run the same command again: what "
            "it held is then done again"
        )


def write_part(
    folder: Path,
    part: int,
    layout: RowLayout,
    events: Sequence[JournalEvent],
    batches: Sequence[Batch],
) -> None:
    """Put rows, and the events of their keys, on disk.

    Raises:
        FusionEngineError: it cannot be written.
    """
    path = part_path(folder, part)
    metadata = {_KEY: to_text(events)}
    with atomic_path(path) as temporary:
        with ParquetWriter(
            temporary, layout, metadata=metadata, group_bytes=_GROUP_BYTES
        ) as writer:
            if batches:
                # In one piece: most batches are small.
                rows = list(chain.from_iterable(rows for rows, _ in batches))
                writer.write(rows, np.concatenate([embeddings for _, embeddings in batches]))
        sync(temporary)
    try:
        sync(folder)
    except OSError as error:
        raise write_error(path, error) from error


def read_events(folder: Path, part: int) -> list[JournalEvent]:
    """The events of a part.

    Raises:
        DamagedPart: they cannot be read.
        FusionEngineError: the disk does not give them.
    """
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(part_path(folder, part))
        events = from_text((metadata.metadata or {})[_KEY.encode()].decode())
    except (OSError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        # pyarrow's own findings are an OSError without a number.
        if isinstance(error, OSError) and error.errno:
            raise FusionEngineError(
                f"cannot read {part_path(folder, part)}: {os.strerror(error.errno)}, expected the "
                "rows of an earlier run; make it readable, or remove it"
            ) from error
        raise DamagedPart(folder, part, error) from error
    rows = sum(event.rows for event in events if isinstance(event, Added))
    if rows != metadata.num_rows:
        raise DamagedPart(folder, part, f"{metadata.num_rows} rows, expected {rows}")
    return events


class PartReader:
    """Reads rows of parts, a few open at a time.

    Args:
        folder: of the parts.
        layout: of their rows.
    """

    def __init__(self, folder: Path, layout: RowLayout) -> None:
        self._folder, self._schema = folder, arrow_schema(layout)
        self._open = lru_cache(maxsize=_OPEN_PARTS)(self._open_part)

    def read(
        self, place: Place, keys: Sequence[str]
    ) -> tuple[dict[str, list[Any]], NDArray[np.float32]]:
        """Rows that are all in one part, each of its key.

        Returns:
            The columns beside the path by name, and embeddings [n, D].

        Raises:
            DamagedPart: it is damaged, or gone.
        """
        try:
            file = self._open(place.part)
            size = file.metadata.row_group(0).num_rows  # of all groups, but the last may be smaller
            first, last = place.first // size, (place.first + place.rows - 1) // size
            groups = file.read_row_groups(range(first, last + 1))
        except (OSError, NotImplementedError, ValueError) as error:
            raise DamagedPart(self._folder, place.part, error) from error
        table = groups.slice(place.first - first * size, place.rows)
        # Only the pages have checksums, not what says where they are.
        if table.column("path").to_pylist() != [valid_text(key) for key in keys]:
            raise DamagedPart(self._folder, place.part, "its rows are others than it says")
        vectors = table.column("embedding").combine_chunks()
        embeddings = vectors.flatten().to_numpy(zero_copy_only=False).reshape(place.rows, -1)
        columns = table.drop_columns(["path", "embedding"]).to_pydict()
        return columns, embeddings.astype(np.float32, copy=False)

    def _open_part(self, part: int) -> Any:
        import pyarrow.parquet as pq

        path = part_path(self._folder, part)
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
        if not file.schema_arrow.equals(self._schema):
            raise ValueError(f"it has columns {file.schema_arrow.names} or types of its own")
        return file


def part_path(folder: Path, part: int) -> Path:
    """The part of number ``part``, from 1 on."""
    return folder / f"part-{part:06d}.parquet"


def part_numbers(folder: Path) -> list[int]:
    """Of the parts in a folder, in order."""
    with os.scandir(folder) as entries:
        matches = [_NAME.fullmatch(entry.name) for entry in entries]
    return sorted(int(match[1]) for match in matches if match)
