"""A Ray dataset of embeddings as a folder of Parquet files."""

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .._atomic import atomic_path, write_error
from .._sync import sync
from ..errors import FusionEngineError
from ..output import Failures, ParquetWriter, RowLayout
from ..spec import METADATA_KEY
from .embedder import ERROR
from .library import import_ray

if TYPE_CHECKING:
    from ray.data import Dataset


@dataclass(frozen=True, kw_only=True)
class Written:
    """What ``write`` wrote.

    Attributes:
        rows: of the table.
        failures: path and reason of what could not be embedded, as in the errors file.
    """

    rows: int
    failures: list[tuple[str, str]]


class _Part(NamedTuple):
    """What one task wrote."""

    rows: int
    failures: list[tuple[str, str]]


def write(
    dataset: "Dataset", folder: str | os.PathLike[str], *, rows_per_file: int = 4096
) -> Written:
    """Run ``dataset``, of ``fusion_engine.ray.embed``, and write it as ``embed -o FOLDER/`` does.

    ``part-000000.parquet`` … hold the rows with an embedding, in no order; the others are lines of
    ``FOLDER.errors.jsonl``. Both appear when all is done, or not at all; without a row there is no
    folder. Every row is in the files once, also where nodes are lost on the way.

    Args:
        dataset: as ``embed`` gave it, or filtered.
        folder: new or empty, on a file system that this process and all nodes share.
        rows_per_file: about; a task holds so many in memory.

    Raises:
        FusionEngineError: the folder is there and not empty, or cannot be written; or the job
            failed, and what a worker said: of a dataset that ``embed`` did not make too.
        ValueError: ``rows_per_file`` is below 1.
    """
    import_ray()
    from ray.data import Datasink
    from ray.exceptions import RayError

    if rows_per_file < 1:
        raise ValueError(f"rows_per_file is {rows_per_file}, expected at least 1")
    path = Path(os.path.realpath(folder))
    _check_new(path)
    parts: list[_Part] = []
    with Failures(path) as failures, _staged(path) as staged:

        class Folder(Datasink):  # type: ignore[misc]
            min_rows_per_write = rows_per_file

            def write(self, blocks: Iterable[Any], ctx: Any) -> _Part:
                # The number stays when the task is tried again, which replaces the file.
                return _write_part(_part_path(staged, ctx.task_idx), blocks)

            def on_write_complete(self, write_result: Any) -> None:
                parts.extend(write_result.write_returns)

        try:
            dataset.write_datasink(Folder())
        except RayError as error:
            raise FusionEngineError(
                f"the Ray job failed, and wrote nothing: {_reason(error)}"
            ) from error
        found = sorted({failure for part in parts for failure in part.failures})
        for failed, reason in found:
            failures.add(failed, reason)
        _put_in_place(staged, path)
    return Written(rows=sum(part.rows for part in parts), failures=found)


def _reason(error: Exception) -> str:
    """What a worker raised, out of its traceback, which is Ray's message."""
    text = str(error)
    raised = re.search(r"^[\w.]*(?:Error|Exception): (.+)$", text, re.MULTILINE)
    return raised[1] if raised else text


def _check_new(folder: Path) -> None:
    """Refuse a folder with something in it, or what is none.

    Raises:
        FusionEngineError: it is one.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if os.path.lexists(folder):
        raise FusionEngineError(
            f"{folder} is there, expected a new or an empty folder; move it away, or choose another"
        )


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder``, of which nothing is left at the end."""
    staged = folder.with_name(f".fusion_engine-{secrets.token_hex(8)}")
    try:
        staged.mkdir()
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _part_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}.parquet"


def _write_part(path: Path, blocks: Iterable[Any]) -> _Part:
    """Write the rows with embeddings, if there are some.

    Raises:
        FusionEngineError: the file cannot be written.
        ValueError: they are not of ``embed``.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from ray.data.block import BlockAccessor

    tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
    tables = [table for table in tables if table.num_rows]  # an empty one may lack the columns
    if not tables:
        return _Part(0, [])
    rows = pa.concat_tables(tables)
    failures: list[tuple[str, str]] = []
    if ERROR in rows.column_names:
        bad = pc.is_valid(rows[ERROR])
        columns = rows.filter(bad).select(["path", ERROR]).to_pydict()
        failures = list(zip(columns["path"], columns[ERROR], strict=True))
        rows = rows.filter(pc.invert(bad)).drop_columns([ERROR])
    if rows.num_rows:
        with atomic_path(path) as temporary:
            layout, metadata = _layout_of(rows.schema)
            with ParquetWriter(temporary, layout, metadata=metadata) as writer:
                writer.write_arrow(rows)
            sync(temporary)
    return _Part(rows.num_rows, failures)


def _layout_of(schema: Any) -> tuple[RowLayout, dict[str, str]]:
    """How the rows are kept, and the metadata that goes along.

    Raises:
        ValueError: ``embed`` did not make the schema.
    """
    import pyarrow as pa

    metadata = {name.decode(): text.decode() for name, text in (schema.metadata or {}).items()}
    if METADATA_KEY not in metadata:
        raise ValueError(
            f"the dataset has the columns {schema.names} without the spec of an artifact, expected "
            "one that fusion_engine.ray.embed gave, or filters of it that keep Arrow's blocks"
        )
    vector = schema.field("embedding").type
    layout = RowLayout(
        embedding_dim=vector.list_size,
        channels="channel" in schema.names,
        dtype="float16" if pa.types.is_float16(vector.value_type) else "float32",
    )
    return layout, metadata


def _put_in_place(staged: Path, folder: Path) -> None:
    """Make ``folder`` of what was staged, its files numbered from 0 on without a gap.

    Raises:
        FusionEngineError: it cannot be written.
    """
    files = sorted(staged.iterdir(), key=lambda file: (len(file.name), file.name))
    if not files:
        return
    try:
        for number, file in enumerate(files):
            file.rename(_part_path(staged, number))
        sync(staged)
        staged.replace(folder)
        sync(folder.parent)
    except OSError as error:
        raise write_error(folder, error) from error
