"""How near two embeddings are: scores in FP64, and scores in FP32 with bounds of their error.

A score is larger where two are nearer: the cosine similarity, or the squared distance times −1.
"""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Metric = Literal["cosine", "l2"]
METRICS: tuple[Metric, ...] = get_args(Metric)

_U = 2.0**-24
# Squared norms beyond these may have lost digits to underflow, or are infinite.
_SMALLEST, _LARGEST = 1e-20, 1e30
_TINY = 1e-30
# A product of these sizes has half as many multiplications as OpenBLAS takes two threads for.
_ROWS, _MOST_COLUMNS, _MOST_QUERIES = 16, 256, 32


def check_metric(metric: str) -> None:
    """Refuse a metric that does not exist.

    Raises:
        ValueError: it does not.
    """
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}, expected {' or '.join(METRICS)}")


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vectors [n, D] of length 1; zero stays zero."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    # Scaled first: squares of large and small values are none.
    scaled: NDArray[np.float64] = np.divide(
        vectors, largest, out=np.zeros_like(vectors), where=largest > 0
    )
    norms = np.sqrt((scaled * scaled).sum(axis=1, keepdims=True))
    np.divide(scaled, norms, out=scaled, where=norms > 0)
    return scaled


class Scorer:
    """Scores of rows by Q queries; for many threads at once.

    Args:
        queries: [Q, D] float64, finite.
        metric: of the scores. The cosine similarity to or of a zero vector is 0.
    """

    def __init__(self, queries: NDArray[np.float64], metric: Metric) -> None:
        self._metric = metric
        self._queries = unit(queries) if metric == "cosine" else queries
        dim = queries.shape[1]
        self._chunks = -(-dim // _MOST_COLUMNS)
        self._columns = -(-dim // self._chunks)
        with np.errstate(over="ignore"):
            singles = _padded(self._queries.astype(np.float32), 1, self._chunks * self._columns)
            self._squares = (singles * singles).sum(axis=1)
        groups = [
            singles[first : first + _MOST_QUERIES].T
            for first in range(0, len(singles), _MOST_QUERIES)
        ]
        # Each [chunks, columns, queries].
        self._groups = [
            np.ascontiguousarray(group).reshape(self._chunks, self._columns, -1) for group in groups
        ]
        roundings = (self._columns + self._chunks + 8) * _U
        # Of sums of products in any order (Higham, Accuracy and Stability, section 3.1).
        self._gamma = roundings / (1 - roundings) if roundings < 0.5 else np.inf

    def exact(self, query: int, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Scores [n] of rows [n, D] by one query.

        NumPy's own sums: a row's score does not depend on the other rows, as a product's does.
        """
        vectors, own = rows.astype(np.float64), self._queries[query]
        if self._metric == "cosine":
            cosine: NDArray[np.float64] = (unit(vectors) * own).sum(axis=1)
            return cosine
        vectors -= own
        distance: NDArray[np.float64] = (vectors * vectors).sum(axis=1)
        return -distance

    def bounds(self, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Least and largest score [n, Q] of rows [n, D] that FP32 allows for."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            squares, products = self._products(rows)
            if self._metric == "cosine":
                scores = products / np.sqrt(squares)
                error: Any = np.float32(2 * self._gamma)
                known = (squares > _SMALLEST) & (squares < _LARGEST)
            else:
                scores = 2 * products - squares - self._squares
                # 2·gamma·(|x| + |q|)², at most.
                error = np.float32(4 * self._gamma) * (squares + self._squares) + np.float32(_TINY)
                known = np.isfinite(scores) & np.isfinite(error)
            low = np.where(known, scores - error, -np.inf)
            return low, np.where(known, scores + error, np.inf)

    def _products(self, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Squared norms [n, 1] and products with the queries [n, Q], in FP32.

        Of pieces so small that BLAS takes one thread for each: its threads would wait busily for
        each other, while ours read and convert. Their sums are also the more exact.
        """
        singles = _padded(single(rows), 1, self._chunks * self._columns)
        singles = _padded(singles, 0, -(-len(rows) // _ROWS) * _ROWS)
        parts = singles.reshape(len(singles), self._chunks, self._columns)
        squares = np.vecdot(parts, parts).sum(axis=1)[: len(rows), None]
        pieces = parts.reshape(-1, _ROWS, self._chunks, self._columns).swapaxes(1, 2)
        products = [(pieces @ group).sum(axis=1) for group in self._groups]
        flat = [product.reshape(len(singles), -1)[: len(rows)] for product in products]
        return squares, np.concatenate(flat, axis=1)


def single(rows: NDArray[Any]) -> NDArray[np.float32]:
    """In FP32; halves by arithmetic on vectors, which is five times as fast as NumPy's own."""
    if rows.dtype != np.float16:
        return rows.astype(np.float32, copy=False)
    bits = rows.view(np.int16).astype(np.int32)
    # Sign, exponent and mantissa to their places; the exponents' zeros are 112 apart.
    bits <<= 13
    bits &= ~0x70001FFF
    singles = bits.view(np.float32)
    singles *= np.float32(2.0**112)
    return singles


def _padded(matrix: NDArray[np.float32], axis: int, size: int) -> NDArray[np.float32]:
    """With zeros up to ``size``."""
    missing = [(0, 0), (0, 0)]
    missing[axis] = (0, size - matrix.shape[axis])
    return np.pad(matrix, missing) if missing[axis][1] else matrix
