"""A search by one contender in a process of its own, which says what it took.

``cases_search`` runs it as ``python -m benchmarks.search_jobs JOB WORK``. A job imports only what
it needs, since its memory is reported.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .machine import peak_gib

BLOCK_ROWS = 1024

Search = Callable[[], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is searched.

    Args:
        table: Parquet.
        index: of the table; read by the job of that name, and written by ``build``.
        queries: ``.npy`` [Q, D] float32.
        k: how many are wanted.
    """

    table: str
    index: str
    queries: str
    k: int

    def to_json(self) -> str:
        """As one argument of a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What ``to_json`` wrote."""
        return cls(**json.loads(text))


def exact(work: Work) -> Search:
    """Ours, of all rows."""
    import fusion_engine as fe
    from fusion_engine.table_reader import open_table

    table, queries = open_table(work.table), np.load(work.queries)
    return lambda: similarities(fe.search(table, queries, work.k))


def index(work: Work) -> Search:
    """Ours, by an index that is open: the queries one by one, after another one."""
    import fusion_engine as fe
    from fusion_engine.retrieval import open_index
    from fusion_engine.table_reader import open_table

    table, queries = open_table(work.table), np.load(work.queries)
    start = time.perf_counter()
    opened = open_index(work.index, table)
    EXTRA["open_seconds"] = time.perf_counter() - start
    fe.search(table, queries[0][::-1], work.k, index=opened)
    EXTRA["calls"] = len(queries)
    return lambda: similarities(
        [fe.search(table, query, work.k, index=opened)[0] for query in queries]
    )


def brute_force(work: Work) -> Search:
    """NumPy: one product in FP32 a block, as pyarrow reads them from the mapped file."""
    import pyarrow.parquet as pq

    queries = np.load(work.queries)
    units = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).T

    def search() -> NDArray[np.float64]:
        best = np.full((0, units.shape[1]), -np.inf, np.float32)
        with pq.ParquetFile(work.table, memory_map=True) as file:
            for batch in file.iter_batches(BLOCK_ROWS, columns=["embedding"]):
                flat = batch.column(0).flatten().to_numpy()
                block = flat.reshape(-1, len(units)).astype(np.float32)
                scores = block @ units / np.linalg.norm(block, axis=1, keepdims=True)
                scores = np.concatenate([best, scores])
                most = min(work.k, len(scores))
                best = np.partition(scores, len(scores) - most, axis=0)[-most:]
        return -np.sort(-best.T.astype(np.float64))

    return search


def build(work: Work) -> Search:
    """Ours: an index."""
    from fusion_engine.retrieval import build_index

    def search() -> NDArray[np.float64]:
        EXTRA["recall_at_10"] = build_index(work.table, work.index).recall_at_10
        return np.empty((0, 0))

    return search


def similarities(found: Any) -> NDArray[np.float64]:
    """[Q, k], the largest first."""
    return np.array([[match.similarity for match in matches] for matches in found])


JOBS: dict[str, Callable[[Work], Search]] = {
    "exact": exact,
    "index": index,
    "numpy": brute_force,
    "build": build,
}
EXTRA: dict[str, float] = {}


def main() -> None:
    """Run a job, and print what it took and found."""
    search = JOBS[sys.argv[1]](Work.from_json(sys.argv[2]))
    start = time.perf_counter()
    found = search()
    seconds = time.perf_counter() - start
    took = {"seconds": seconds / EXTRA.pop("calls", 1), "peak_gib": peak_gib(), **EXTRA}
    print(json.dumps({"took": took, "similarities": found.tolist()}))


if __name__ == "__main__":
    main()
