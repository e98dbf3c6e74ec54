"""The nearest rows by one pass over a table, without a doubt: FP32 leaves out, FP64 decides."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cpus import usable_cpus
from ..table_reader import TableReader
from .metrics import Metric, Scorer

# Of FP32 in one piece: it stays in a core's cache.
_PIECE_VALUES = 2**19
# Parts of a table that are read at a time.
_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest rows of one query, the nearest first, the lower number first of equal ones.

    Attributes:
        rows: [n] their numbers.
        scores: [n] float64, see ``metrics``.
    """

    rows: NDArray[np.intp]
    scores: NDArray[np.float64]

    def with_others(self, other: "Nearest", k: int) -> "Nearest":
        """The k nearest of these and others."""
        rows = np.concatenate([self.rows, other.rows])
        scores = np.concatenate([self.scores, other.scores])
        first = np.lexsort((rows, -scores))[:k]
        return Nearest(rows[first], scores[first])


NONE = Nearest(np.empty(0, np.intp), np.empty(0))


def nearest(
    table: TableReader,
    queries: NDArray[np.float64],
    k: int,
    metric: Metric,
    *,
    leave_out: NDArray[np.intp],
    progress: Callable[[int], None] = lambda rows: None,
) -> list[Nearest]:
    """The k nearest rows of each query: those that FP64 finds, whatever the blocks.

    A row's score in FP64 is computed only where its bounds in FP32 do not keep it from the k
    nearest so far.

    Args:
        table: whose rows; read once, in blocks.
        queries: [Q, D], finite.
        k: at least 1; where the table has fewer rows there are fewer.
        metric: of the scores.
        leave_out: [Q] a row that is not to be found; -1: none.
        progress: called with the rows of each block.
    """
    scorer, found = Scorer(queries, metric), [NONE] * len(queries)
    step = max(1, _PIECE_VALUES // (table.dim + len(queries)))
    first = 0
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for block in _ahead(table, pool):
            pieces = [block[begin : begin + step] for begin in range(0, len(block), step)]
            for piece, (low, high) in zip(pieces, pool.map(scorer.bounds, pieces), strict=True):
                _search(scorer, piece, low, high, first, k, leave_out, found)
                first += len(piece)
            progress(len(block))
    return found


def _search(
    scorer: Scorer,
    piece: NDArray[Any],
    low: NDArray[Any],
    high: NDArray[Any],
    first: int,
    k: int,
    leave_out: NDArray[np.intp],
    found: list[Nearest],
) -> None:
    """Put the rows of a piece where they belong.

    Args:
        piece: rows [n, D].
        low, high: bounds [n, Q] of their scores; they are changed.
        first: number of the first of these rows.
        scorer, k, leave_out, found: see ``nearest``.
    """
    left_out = leave_out - first
    (here,) = np.nonzero((left_out >= 0) & (left_out < len(piece)))
    low[left_out[here], here] = high[left_out[here], here] = np.nan  # no comparison holds
    least = np.array([near.scores[-1] if len(near.rows) == k else -np.inf for near in found])
    for query in np.flatnonzero((high >= least).any(axis=0)).tolist():
        bounds = low[:, query]
        if len(bounds) > k:
            # A row that k others of the piece pass for certain need not be looked at.
            kth = np.partition(np.nan_to_num(bounds, nan=-np.inf), -k)[-k]
            least[query] = max(least[query], kth)
        rows = np.flatnonzero(high[:, query] >= least[query])
        if len(rows):
            near = Nearest(rows + first, scorer.exact(query, piece[rows]))
            found[query] = found[query].with_others(near, k)


def _ahead(table: TableReader, pool: ThreadPoolExecutor) -> Iterator[NDArray[Any]]:
    """The blocks in order, of which some are read meanwhile: one of each part."""
    parts = table.parts()
    coming = deque((part, pool.submit(next, part, None)) for part in islice(parts, _AHEAD))
    while coming:
        part, block = coming.popleft()
        while (found := block.result()) is not None:
            block = pool.submit(next, part, None)
            yield found
        coming.extend((part, pool.submit(next, part, None)) for part in islice(parts, 1))
