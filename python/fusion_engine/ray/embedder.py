"""What an actor does: batches of rows that name recordings in, rows with embeddings out."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from .._rows import of_channel, row_of
from ..artifact import file_sha256
from ..audio import Channel
from ..errors import AudioError, FusionEngineError
from ..job.settings import all_settings, describe_job
from ..named import named_artifact
from ..output import Dtype, Row, Table, arrow_batch, arrow_schema, valid_text
from ..spec import Head

if TYPE_CHECKING:
    from ..engine.recording import Item
    from ..engine.windows import Tail

Errors = Literal["column", "raise"]
ERRORS: tuple[Errors, ...] = get_args(Errors)

# Of what comes out: why there is no embedding.
ERROR = "error"
# Of what goes in: why there is nothing to embed.
REFUSED = "__refused__"

# What is done of a batch is passed on when its embeddings have so many bytes.
_OUTPUT_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How ``fusion_engine.ray.embed`` was asked to embed, see there."""

    window: float | None
    hop: float | None
    tail: "Tail"
    head: Head | None
    channel: Channel
    partial: bool
    dtype: Dtype
    normalization: tuple[float, float] | None


class _Outcome(NamedTuple):
    """What became of an item: n rows and their embeddings [n, D], or an error."""

    item: "Item"
    rows: Sequence[Row] = ()
    embeddings: NDArray[np.float32] | None = None
    error: FusionEngineError | None = None


class RayEmbedder:
    """Ray Data calls it with batches, in an actor of its own.

    Args:
        artifact: a path on this node, or a name.
        wanted: how to embed.
        errors: as for ``embed``.
        base: the folder that relative paths start at.
        device: as for ``Engine``, and the next two.
        threads: CPU threads.
        memory_limit: bytes of GPU memory.
    """

    def __init__(
        self,
        artifact: str,
        wanted: Wanted,
        *,
        errors: Errors,
        base: str,
        device: str,
        threads: int,
        memory_limit: int | None,
    ) -> None:
        from ..engine import Engine

        path = named_artifact(artifact)
        self._engine = Engine(
            path,
            device=device,
            threads=threads,
            normalization=wanted.normalization,
            memory_limit=memory_limit,
        )
        self._engine.embed([], head=wanted.head)  # refuses a head that does not fit
        self._windows = self._engine.windows(wanted.window, wanted.hop, wanted.tail)
        self._wanted, self._errors, self._base = wanted, errors, base
        spec = self._engine.spec
        spec = replace(spec, head=wanted.head or spec.head)
        table = Table(
            spec=spec,
            embedding_dim=spec.embedding_dim,
            channels=wanted.channel == "all",
            dtype=wanted.dtype,
        )
        settings = all_settings({"artifact": file_sha256(path), **asdict(wanted)}, table)
        self._table = replace(table, job=describe_job(settings, "fusion_engine.ray.embed"))
        self._schema = arrow_schema(self._table).with_metadata(self._table.metadata)
        self._output = _with_errors(self._schema) if errors == "column" else self._schema

    def __call__(self, batch: Any) -> Iterator[Any]:
        """The rows of a batch.

        Args:
            batch: a ``pyarrow.Table`` with ``path`` (text, or the bytes of a name that is none),
                and where it has them ``start`` and ``end`` in seconds, and ``REFUSED``.

        Yields:
            One or more ``pyarrow.Table`` with the columns of the table, and ``ERROR``.

        Raises:
            AudioError: with ``errors="raise"``, the first recording that cannot be embedded.
            BackendError: the library failed.
        """
        import pyarrow as pa

        held, size = [self._output.empty_table()], 0
        for outcome in self._outcomes(_items(batch, self._base)):
            if outcome.embeddings is None:
                held.append(self._failed(outcome))
                continue
            held.append(self._embedded(outcome.rows, outcome.embeddings))
            size += held[-1].nbytes
            if size >= _OUTPUT_BYTES:
                yield pa.concat_tables(held)
                held, size = [self._output.empty_table()], 0
        yield pa.concat_tables(held)

    def _outcomes(self, items: Iterable["Item | _Outcome"]) -> Iterator[_Outcome]:
        """What becomes of every item, of each part by itself where one of several fails."""
        todo = list["Item"]()
        for item in items:
            if isinstance(item, _Outcome):
                yield item
            else:
                todo.append(item)
        apart = list["Item"]()
        for outcome in self._embed(todo):
            parts = outcome.item.parts
            if outcome.error is not None and len(parts) > 1:
                apart += [replace(outcome.item, parts=[part]) for part in parts]
            else:
                yield outcome
        if apart:
            yield from self._embed(apart)

    def _embed(self, items: Sequence["Item"]) -> Iterator[_Outcome]:
        from ..engine.clips import End
        from ..engine.recording import Clip

        waiting = iter(items)
        rows, embeddings = list[Row](), list[NDArray[np.float32]]()
        error: FusionEngineError | None = None
        events = self._engine.embed_items(
            items,
            windows=self._windows,
            head=self._wanted.head,
            channel=self._wanted.channel,
            partial=self._wanted.partial,
        )
        for event, result in events:
            if isinstance(event, Clip):
                if isinstance(result, FusionEngineError):
                    error = error or of_channel(event, result)
                elif result is not None:
                    rows.append(row_of(event, self._engine.sample_rate))
                    embeddings.append(result)
            if not isinstance(event, End):
                continue
            duration = event.samples / self._engine.sample_rate
            rows = [replace(row, duration=duration, partial=event.partial) for row in rows]
            yield self._outcome(next(waiting), rows, embeddings, event.error or error)
            rows, embeddings, error = [], [], None

    def _outcome(
        self,
        item: "Item",
        rows: Sequence[Row],
        embeddings: Sequence[NDArray[np.float32]],
        error: FusionEngineError | None,
    ) -> _Outcome:
        if error is not None:
            return _Outcome(item, error=error)
        stacked = np.stack(embeddings)
        try:
            self._table.check(rows, stacked)
        except FusionEngineError as beyond:  # the range of float16
            return _Outcome(item, error=beyond)
        return _Outcome(item, rows, stacked)

    def _embedded(self, rows: Sequence[Row], embeddings: NDArray[np.float32]) -> Any:
        import pyarrow as pa

        batch = arrow_batch(self._table, self._schema, rows, embeddings)
        table = pa.Table.from_batches([batch])
        if self._errors == "column":
            table = table.append_column(ERROR, pa.nulls(len(rows), pa.string()))
        return table.cast(self._output)

    def _failed(self, outcome: _Outcome) -> Any:
        import pyarrow as pa

        assert outcome.error is not None
        if self._errors == "raise":
            raise outcome.error
        ((start, end),) = outcome.item.parts
        text, reason = valid_text(outcome.item.key), valid_text(str(outcome.error))
        row = {"path": text, "start": start, "end": end, ERROR: reason}
        return pa.Table.from_pylist([row], schema=self._output)


def _with_errors(schema: Any) -> Any:
    """The schema of rows that may lack all but the path, and say why."""
    import pyarrow as pa

    fields = [field if field.name == "path" else field.with_nullable(True) for field in schema]
    return pa.schema([*fields, pa.field(ERROR, pa.string())], metadata=schema.metadata)


def _items(batch: Any, base: str) -> Iterator["Item | _Outcome"]:
    """The recordings of a batch, each once with all of its parts, and those that are none.

    Raises:
        ValueError: no column ``path``, or a row without one.
    """
    from ..engine.recording import Item

    if "path" not in batch.column_names:
        raise ValueError(f"the dataset has the columns {batch.column_names}, expected `path`")
    parts = dict[str, list[tuple[float | None, float | None]]]()
    names = [name for name in ("path", "start", "end", REFUSED) if name in batch.column_names]
    for row in batch.select(names).to_pylist():
        if not row["path"]:
            raise ValueError("a row of the dataset has no path, expected that of an audio file")
        path, start, end = os.fsdecode(row["path"]), row.get("start"), row.get("end")
        refused = row.get(REFUSED) or _fault(start, end)
        if refused:
            item = Item(key=path, audio=path, parts=[(start, end)])
            yield _Outcome(item, error=AudioError(refused))
        else:
            parts.setdefault(path, []).append((start, end))
    for path, of_path in parts.items():
        yield Item(key=path, audio=os.path.join(base, path), parts=of_path)  # noqa: PTH118


def _fault(start: float | None, end: float | None) -> str | None:
    """What is wrong with a part from ``start`` to ``end``, in seconds."""
    first = start or 0.0
    last = math.nextafter(math.inf, 0) if end is None else end
    if math.isfinite(first) and math.isfinite(last) and 0 <= first < last:
        return None
    return f"got start {start} s and end {end} s, expected seconds from 0 on, start before end"
