"""``search``: queries in, the nearest rows of a table out."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..table_reader import TableReader, open_table
from .exact import Nearest, nearest
from .metrics import Metric, check_metric
from .queries import Audio, Query, TableRow, open_engine, parse_query, vectors_of

if TYPE_CHECKING:
    from ..engine import Engine
    from .index import Index


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A row that was found.

    Attributes:
        row: its number in the table, from 0 on.
        path: of its recording, as the table has it.
        start: of its clip, in seconds of the recording.
        end: of its clip.
        channel: of the recording, from 1 on; ``None``: its channels were mixed down.
        similarity: cosine similarity, -1 to 1; ``None`` with the metric ``l2``.
        distance: Euclidean distance; ``None`` with the metric ``cosine``.
    """

    row: int
    path: str
    start: float
    end: float
    channel: int | None = None
    similarity: float | None = None
    distance: float | None = None


def search(
    table: str | os.PathLike[str] | TableReader,
    queries: Any,
    k: int = 10,
    *,
    metric: Metric = "cosine",
    engine: "Engine | str | os.PathLike[str] | None" = None,
    index: "Index | str | os.PathLike[str] | None" = None,
    include_self: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> list[list[Match]]:
    """The k nearest rows of a table to each query, the nearest first.

    Without an index all rows are compared, in one pass in blocks, and the answer is that of FP64
    arithmetic: of equal rows the lower number is first. The similarity to a zero vector is 0.

    Args:
        table: what ``embed`` wrote: ``.parquet``, a folder of them, ``.npz`` or ``.csv``.
        queries: one query or a list of them: text as ``fusion-engine search`` takes it
            (``call.wav``, ``call.wav@3.5-6.0``, ``row:PATH``, ``row:#N``), a ``Path`` of a file, or
            an embedding [D] of floats; or an array [Q, D].
        k: how many; fewer where the table has fewer rows.
        metric: ``cosine`` or ``l2``.
        engine: for queries that are audio: an ``Engine``, or the artifact that made the table,
            which then runs with the table's head and normalisation. Channels are mixed down.
        index: what ``build_index`` wrote for this table, or that opened by ``open_index``, which
            is worth it for many calls. It is fast, and may miss a row. What it finds has the values
            of exact search where the table is in float16; else similarities are within 5e-4 of
            these, and distances within 5e-4 of the row's length.
        include_self: whether a query that is a row of the table may find itself.
        progress: called with a number of rows when they were searched.

    Returns:
        A list for each query.

    Raises:
        FusionEngineError: no table, no such row, or of another embedding space.
        AudioError, NumericalError: a file that cannot be embedded.
        BackendError: the index needs a library that is missing.
        ValueError, TypeError: a wrong argument.
    """
    check_metric(metric)
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    opened = table if isinstance(table, TableReader) else open_table(table)
    items = _items(queries)
    if not items:
        return []
    parsed = {
        place: parse_query(item, opened.rows)
        for place, item in enumerate(items)
        if isinstance(item, (str, os.PathLike))
    }
    vectors = np.empty((len(items), opened.dim))
    for place, item in enumerate(items):
        if place not in parsed:
            vectors[place] = _embedding(item, opened.dim)
    if parsed:
        vectors[list(parsed)] = _embed(list(parsed.values()), opened, engine)
    leave_out = np.full(len(items), -1, np.intp)
    if not include_self:
        for place, query in parsed.items():
            if isinstance(query, TableRow):
                leave_out[place] = query.number
    if index is None:
        found = nearest(opened, vectors, k, metric, leave_out=leave_out, progress=progress)
    else:
        graph = _index(index, opened, metric)
        found = graph.nearest(vectors, k, leave_out=leave_out)
    return [_matches(near, opened, metric) for near in found]


def _embed(
    queries: Sequence[Query], table: TableReader, engine: "Engine | str | os.PathLike[str] | None"
) -> NDArray[np.float64]:
    if not isinstance(engine, (str, os.PathLike)):
        return vectors_of(queries, table, engine)
    if not any(isinstance(query, Audio) for query in queries):
        return vectors_of(queries, table, None)
    with open_engine(engine, table) as opened:
        return vectors_of(queries, table, opened)


def _index(index: "Index | str | os.PathLike[str]", table: TableReader, metric: Metric) -> "Index":
    from .index import Index, open_index

    if not isinstance(index, Index):
        return open_index(index, table, metric)
    if index.metric != metric or index.table is not table:
        raise ValueError(
            f"the index was opened for {index.table.path} and the metric {index.metric}, expected "
            f"{table.path}, as it was opened there, and {metric}"
        )
    return index


def _items(queries: Any) -> list[Any]:
    """The queries one by one."""
    if isinstance(queries, (str, os.PathLike)):
        return [queries]
    if isinstance(queries, np.ndarray):
        return [queries] if queries.ndim == 1 else list(queries)
    if isinstance(queries, Sequence):
        return list(queries)
    raise TypeError(
        f"queries are {type(queries).__name__}, expected text, a path, an embedding, or a list or "
        "an array [Q, D] of them"
    )


def _embedding(item: Any, dim: int) -> NDArray[Any]:
    if not isinstance(item, np.ndarray):
        raise TypeError(
            f"a query is {type(item).__name__}, expected text, a path or an embedding [{dim}]"
        )
    if item.shape != (dim,) or not np.issubdtype(item.dtype, np.floating):
        raise ValueError(
            f"a query is {item.dtype} {list(item.shape)}, and the table holds embeddings [{dim}] "
            "of floats: expected such a one"
        )
    if not np.isfinite(item).all():
        raise ValueError("a query is not finite")
    return item


def _matches(near: Nearest, table: TableReader, metric: Metric) -> list[Match]:
    rows = table.rows
    return [
        Match(
            row=int(row),
            path=rows.paths[row],
            start=float(rows.start[row]),
            end=float(rows.end[row]),
            channel=None if rows.channels is None else int(rows.channels[row]),
            similarity=max(-1.0, min(1.0, float(score))) if metric == "cosine" else None,
            distance=math.sqrt(-score) if metric == "l2" else None,
        )
        for row, score in zip(near.rows, near.scores, strict=True)
    ]
