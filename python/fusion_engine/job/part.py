"""Parts: Parquet files of rows, with the events of their files in the metadata."""

import os
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._atomic import atomic_path, write_error
from .._sync import sync
from ..errors import FusionEngineError
from ..output import ParquetWriter, Row, Table
from . import events as events_module
from .events import Event
from .index import Place

_KEY = "fusion_engine_part"
# Small, for rows may be wanted in any order.
_GROUP_BYTES = 2**18
_OPEN_PARTS = 8

Batch = tuple[Sequence[Row], NDArray[np.float32]]


class DamagedPart(Exception):
    """A part that was not written to its end, or has changed since."""


class Rows(NamedTuple):
    """Some rows of a part: columns beside the path by name, and embeddings [n, D] float32."""

    columns: dict[str, list[Any]]
    embeddings: NDArray[np.float32]


def write_part(path: Path, table: Table, events: Sequence[Event], batches: Sequence[Batch]) -> None:
    """Put rows, and the events of their files, on disk.

    Raises:
        FusionEngineError: it cannot be written.
    """
    metadata = {_KEY: events_module.to_json(events)}
    with atomic_path(path) as temporary:
        with ParquetWriter(temporary, table, metadata=metadata, group_bytes=_GROUP_BYTES) as writer:
            if batches:
                # In one piece: most batches are small.
                rows = list(chain.from_iterable(rows for rows, _ in batches))
                writer.write(rows, np.concatenate([embeddings for _, embeddings in batches]))
        sync(temporary)
    try:
        sync(path.parent)
    except OSError as error:
        raise write_error(path, error) from error


def read_events(path: Path) -> list[Event]:
    """The events of a part.

    Raises:
        DamagedPart: they cannot be read.
        FusionEngineError: the disk does not give them.
    """
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
        events = events_module.from_json((metadata.metadata or {})[_KEY.encode()].decode())
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _reason(path, error) from error
    rows = sum(event.rows for event in events if isinstance(event, events_module.Added))
    if rows != metadata.num_rows:
        raise DamagedPart(f"{path}: {metadata.num_rows} rows, expected {rows}")
    return events


def _reason(path: Path, error: Exception) -> Exception:
    # pyarrow's own findings are an OSError without a number.
    if isinstance(error, OSError) and error.errno:
        return FusionEngineError(
            f"cannot read {path}: {os.strerror(error.errno)}, expected the rows of an earlier run; "
            "make it readable, or start anew with --fresh"
        )
    return DamagedPart(f"{path}: {error}")


class PartReader:
    """Reads rows of parts, a few open at a time.

    Args:
        folder: of the parts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = lru_cache(maxsize=_OPEN_PARTS)(self._open_part)

    def read(self, place: Place) -> Rows:
        """Rows that are all in one part.

        Raises:
            FusionEngineError: the part is damaged.
        """
        path = part_path(self._folder, place.part)
        try:
            file = self._open(place.part)
            size = file.metadata.row_group(0).num_rows  # of all groups, but the last may be smaller
            first, last = place.first // size, (place.first + place.rows - 1) // size
            groups = file.read_row_groups(range(first, last + 1))
        except (OSError, ValueError) as error:
            raise FusionEngineError(
                f"cannot read {path}: {error}; remove it and run the same command again: the files "
                "whose rows it held are then done again"
            ) from error
        table = groups.slice(place.first - first * size, place.rows)
        vectors = table.column("embedding").combine_chunks()
        embeddings = vectors.flatten().to_numpy(zero_copy_only=False).reshape(place.rows, -1)
        columns = table.drop_columns(["path", "embedding"]).to_pydict()
        return Rows(columns, embeddings.astype(np.float32, copy=False))

    def _open_part(self, part: int) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(
            part_path(self._folder, part), page_checksum_verification=True, pre_buffer=False
        )


def part_path(folder: Path, part: int) -> Path:
    """The part of number ``part``, from 1 on."""
    return folder / f"part-{part:06d}.parquet"
