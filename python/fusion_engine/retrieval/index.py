"""An index beside a table: the nearest of millions of rows without reading them all.

A graph of small worlds (Malkov and Yashunin, 2018, arXiv 1603.09320) as usearch builds it, over the
embeddings in FP16. What it finds is compared in FP64 with these, and the table is not read.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._install import install
from .._json import decode, parse
from .._version import __version__
from ..errors import ArtifactError, BackendError, FusionEngineError
from ..table_reader import TableReader
from .exact import Nearest
from .metrics import Metric, Scorer

_FORMAT = 1
_HEAD_BYTES = 64
_LARGEST_HALF = 65504
# Lengths of 64 to 128, for the cosine: their squares are halves too, as which some CPUs add them,
# and values of 2**-20 of the length keep all their digits.
_LENGTH_BITS = 7
NAMES: dict[Metric, str] = {"cosine": "cos", "l2": "l2sq"}


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """What an index is of, and how good: ``NAME.usearch.json``.

    Attributes:
        format: of this file.
        table: name of the table.
        fingerprint: of the table, as ``TableReader.fingerprint``.
        space: of its embeddings; ``None``: the table does not say.
        metric: what the index is for.
        rows: n.
        dim: D.
        connectivity: neighbours of a node.
        expansion_add: candidates when a row was put in.
        expansion_search: candidates when a query is searched for.
        recall_at_10: of ``recall_queries`` rows of the table, the share of their ten nearest other
            rows that was found.
        recall_queries: how many.
        size: of the index, in bytes.
        sha256: of its graph.
        usearch: version of the library that built it.
        producer_version: of fusion_engine.
    """

    format: int = _FORMAT
    table: str
    fingerprint: str
    space: str | None
    metric: Metric
    rows: int
    dim: int
    connectivity: int
    expansion_add: int
    expansion_search: int
    recall_at_10: float
    recall_queries: int
    size: int
    sha256: str
    usearch: str
    producer_version: str = __version__


class Index:
    """An index and its table; made by ``open_index``, and for many threads.

    Attributes:
        table: whose rows it finds.
        metric: what it is for.
    """

    def __init__(
        self, graph: Any, table: TableReader, metric: Metric, expansion_search: int
    ) -> None:
        self._graph, self.table, self.metric = graph, table, metric
        self._expansion_search = expansion_search
        self._lock = Lock()  # the library has room for so many searches at once, and then fails

    def nearest(
        self, queries: NDArray[np.float64], k: int, *, leave_out: NDArray[np.intp]
    ) -> list[Nearest]:
        """As ``exact.nearest``, of the rows that the graph leads to, as the index has them.

        Raises:
            FusionEngineError: a vector of the index is damaged.
        """
        scorer = Scorer(queries, self.metric)
        # Twice as many as are wanted: in FP16 near ones may change places.
        count = min(2 * k + 1, len(self.table.rows))
        found = []
        for number, vector in enumerate(as_kept(queries, self.metric)):
            with self._lock:
                self._graph.expansion_search = max(self._expansion_search, count)
                keys = self._graph.search(vector, count, threads=1).keys.astype(np.intp)
            rows = np.unique(keys[keys != leave_out[number]])
            scores = scorer.exact(number, self.vectors(rows))
            first = np.lexsort((rows, -scores))[:k]
            found.append(Nearest(rows[first], scores[first]))
        return found

    def vectors(self, rows: NDArray[np.intp]) -> NDArray[np.float16]:
        """Rows [n, D] as ``as_kept`` made them.

        Raises:
            FusionEngineError: a value is not finite.
        """
        with self._lock:
            found = self._graph.get(rows)
        vectors = np.array(found, np.float16).reshape(-1, self.table.dim)
        if not np.isfinite(vectors).all():
            raise FusionEngineError(
                f"the index of {self.table.path} is damaged: a vector is not finite; build it again"
            )
        return vectors


def open_index(
    path: str | os.PathLike[str], table: TableReader, metric: Metric = "cosine"
) -> Index:
    """Open an index for a table; its vectors stay on disk.

    Raises:
        BackendError: usearch is not installed.
        FusionEngineError: it is missing or damaged, or of another table, space or metric.
    """
    path = Path(path)
    info = read_info(path)
    again = f"build it again: fusion-engine index {table.path} -o {path} --metric {metric}"
    for what, found, expected in (
        ("metric", info.metric, metric),
        ("embedding space", info.space, table.space),
        ("rows", info.rows, len(table.rows)),
        ("fingerprint of the table", info.fingerprint, table.fingerprint()),
    ):
        if found != expected:
            raise FusionEngineError(f"{path}: {what} {found}, expected {expected}; {again}")
    # Before it is used: the library follows whatever numbers are in the graph.
    if path.stat().st_size != info.size or info.sha256 != graph_sha256(path, info.rows, info.dim):
        raise FusionEngineError(f"{path}: not what {sidecar_of(path).name} says of it; {again}")
    make_graph, _ = import_usearch()
    graph = make_graph(ndim=info.dim, metric=NAMES[metric], dtype="f16")
    try:
        graph.view(path)
    except (RuntimeError, ValueError) as error:
        raise FusionEngineError(f"{path}: cannot be read ({error}); {again}") from error
    return Index(graph, table, metric, info.expansion_search)


def read_info(path: Path) -> IndexInfo:
    """What the file beside an index says.

    Raises:
        FusionEngineError: the index or that file is missing or damaged.
    """
    sidecar = sidecar_of(path)
    for file in (path, sidecar):
        if not file.is_file():
            raise FusionEngineError(f"{file}: no such file. Build it with `fusion-engine index`.")
    try:
        info: IndexInfo = decode(IndexInfo, parse(sidecar.read_text("utf-8"), most=2**16), "index")
    except (ValueError, ArtifactError) as error:
        raise FusionEngineError(
            f"{sidecar}: damaged ({error}). Build the index again with `fusion-engine index`."
        ) from error
    return info


def sidecar_of(path: Path) -> Path:
    """The file beside an index that says what it is of."""
    return Path(f"{path}.json")


def as_kept(vectors: NDArray[np.float64], metric: Metric) -> NDArray[np.float16]:
    """[n, D] as the index has them; for the cosine times a power of two.

    So a table in float16 is kept as it is, but for values below 2**-20 of the length (cosine). Else
    a row is off by 2**-11 of its length at most, and as much are its similarities and distances; to
    which values below 2**-14 add sqrt(D)·2**-25 (l2).

    Raises:
        FusionEngineError: a value is beyond float16.
    """
    if metric == "cosine":
        # In two steps: squares of large and small values are none.
        _, exponents = np.frexp(np.abs(vectors).max(axis=1, keepdims=True, initial=0.0))
        scaled = np.ldexp(vectors, -exponents)
        _, exponents = np.frexp(np.linalg.norm(scaled, axis=1, keepdims=True))
        kept: NDArray[np.float16] = np.ldexp(scaled, _LENGTH_BITS - exponents).astype(np.float16)
        return kept
    largest = float(np.abs(vectors).max(initial=0.0))
    if largest > _LARGEST_HALF:
        raise FusionEngineError(
            f"an embedding holds {largest:g}, expected at most {_LARGEST_HALF}, the largest "
            "float16 that an index for l2 keeps; take the cosine, or search without an index"
        )
    return vectors.astype(np.float16)


def graph_sha256(path: Path, rows: int, dim: int) -> str:
    """Of all but the vectors, which lie in one piece near the start and are as long as the table.

    A wrong one makes wrong scores of its row, and no more.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(_HEAD_BYTES))
        file.seek(rows * dim * 2)
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def import_usearch() -> tuple[Any, str]:
    """The class ``usearch.index.Index``, and the library's version.

    Raises:
        BackendError: it is not installed.
    """
    try:
        from usearch import __version__ as version
        from usearch.index import Index as Graph
    except ImportError as error:
        raise BackendError(
            f"usearch, which builds and searches indexes, cannot be imported ({error}). "
            f"Install it: {install('search')}"
        ) from error
    return Graph, version
