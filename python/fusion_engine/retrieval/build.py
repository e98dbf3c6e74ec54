"""Building an index, and measuring what it finds."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .._atomic import atomic_path
from .._cpus import usable_cpus
from .._memory import available_memory
from .._sync import sync
from ..errors import BackendError, FusionEngineError
from ..table_reader import TableReader, open_table
from .exact import nearest
from .index import NAMES, Index, IndexInfo, as_kept, graph_sha256, import_usearch, sidecar_of
from .metrics import Metric, Scorer, check_metric

# Rows of one call, after which a signal is heard.
_PIECE_ROWS = 256
_RECALL_QUERIES, _RECALL_K = 100, 10


def build_index(
    table: str | os.PathLike[str] | TableReader,
    output: str | os.PathLike[str],
    *,
    metric: Metric = "cosine",
    connectivity: int = 16,
    expansion_add: int = 128,
    expansion_search: int = 64,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> IndexInfo:
    """Write an index of a table for ``search(…, index=output)``.

    It is built in memory: 2·D bytes a row and some 200 for the graph. Its recall is measured
    against exact search, with rows of the table as queries, and is in what is returned and in
    ``OUTPUT.json`` beside the index.

    Args:
        table: what ``embed`` wrote.
        output: the file to write.
        metric: ``cosine`` or ``l2``; a search with the other one is refused.
        connectivity: neighbours of each row in the graph. More: better, larger and slower.
        expansion_add: rows looked at to put one in. More: better, and slower to build.
        expansion_search: rows looked at to search. More: better and slower.
        threads: CPU threads; ``None``: one for every core this process may use.
        progress: called with a phase, how many of its rows are done, and how many it has.

    Raises:
        BackendError: usearch is not installed, or there is too little memory.
        FusionEngineError: no table, a full disk, or values beyond float16 with ``l2``.
        ValueError: an argument out of range.
    """
    check_metric(metric)
    for name, value in (
        ("connectivity", connectivity),
        ("expansion_add", expansion_add),
        ("expansion_search", expansion_search),
    ):
        if not 2 <= value <= 4096:
            raise ValueError(f"{name} is {value}, expected 2 to 4096")
    make_graph, version = import_usearch()
    opened = table if isinstance(table, TableReader) else open_table(table)
    output, rows = Path(output), len(opened.rows)
    _check_room(output, rows * (2 * opened.dim + 8 * connectivity + 64))
    graph = make_graph(
        ndim=opened.dim,
        metric=NAMES[metric],
        dtype="f16",
        connectivity=connectivity,
        expansion_add=expansion_add,
        expansion_search=expansion_search,
    )
    done = 0
    for block in opened.blocks():
        for first in range(0, len(block), _PIECE_ROWS):
            piece = as_kept(block[first : first + _PIECE_ROWS].astype(np.float64), metric)
            keys = np.arange(done, done + len(piece), dtype=np.uint64)
            graph.add(keys, piece, threads=threads or usable_cpus())
            done += len(piece)
            progress("Indexing", done, rows)
    recall, queries = _recall(graph, opened, metric, expansion_search, progress)
    with atomic_path(output) as temporary, atomic_path(sidecar_of(output)) as beside:
        try:
            graph.save(temporary)
        except RuntimeError as error:
            raise FusionEngineError(
                f"cannot write {output}: {error}; free some space, or choose another folder"
            ) from error
        info = IndexInfo(
            table=opened.path.name,
            fingerprint=opened.fingerprint(),
            space=opened.space,
            metric=metric,
            rows=rows,
            dim=opened.dim,
            connectivity=connectivity,
            expansion_add=expansion_add,
            expansion_search=expansion_search,
            recall_at_10=recall,
            recall_queries=queries,
            size=temporary.stat().st_size,
            sha256=graph_sha256(temporary, rows, opened.dim),
            usearch=version,
        )
        beside.write_text(json.dumps(asdict(info), indent=1) + "\n", encoding="utf-8")
        sync(temporary)
        sync(beside)
    return info


def _recall(
    graph: Any,
    table: TableReader,
    metric: Metric,
    expansion_search: int,
    progress: Callable[[str, int, int], None],
) -> tuple[float, int]:
    """The share of the nearest other rows that is found, and of how many rows."""
    rows = len(table.rows)
    chosen = np.random.default_rng(0).choice(rows, min(_RECALL_QUERIES, rows), replace=False)
    chosen.sort()
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress("Comparing", done, rows)

    queries = table.take(chosen).astype(np.float64)
    exact = nearest(table, queries, _RECALL_K, metric, leave_out=chosen, progress=advance)
    index = Index(graph, table, metric, expansion_search)
    found = index.nearest(queries, _RECALL_K, leave_out=chosen)
    expected = sum(len(near.rows) for near in exact)
    # By the index's scores: equal rows may stand for each other.
    scorer, hits = Scorer(queries, metric), 0
    for number, (near, best) in enumerate(zip(found, exact, strict=True)):
        if len(best.rows):
            least = scorer.exact(number, index.vectors(best.rows)).min()
            hits += int((near.scores >= least).sum())
    return (hits / expected if expected else 1.0), len(chosen)


def _check_room(output: Path, size: int) -> None:
    """Refuse what would run for long and then fail.

    Raises:
        BackendError: too little memory.
        FusionEngineError: too little room on the disk.
    """
    there = available_memory()
    if there is not None and there < size:
        raise BackendError(
            f"an index of this table is built in {size / 1e9:.1f} GB of memory, and "
            f"{there / 1e9:.1f} GB are available; build it on a machine with more, or search "
            "without an index"
        )
    folder = Path(os.path.realpath(output)).parent
    if folder.is_dir() and shutil.disk_usage(folder).free < size:
        raise FusionEngineError(
            f"cannot write {output}: about {size / 1e9:.1f} GB are needed; free some space, or "
            "choose a folder on another disk"
        )
