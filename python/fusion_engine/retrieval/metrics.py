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
    """Scores of rows by Q queries.

    Args:
        queries: [Q, D] float64, finite.
        metric: of the scores. The cosine similarity to or of a zero vector is 0.
    """

    def __init__(self, queries: NDArray[np.float64], metric: Metric) -> None:
        self._metric = metric
        self._queries = unit(queries) if metric == "cosine" else queries
        with np.errstate(over="ignore"):
            self._single = np.ascontiguousarray(self._queries.T.astype(np.float32))
            self._squares = (self._single * self._single).sum(axis=0)
        roundings = (queries.shape[1] + 8) * _U
        # Of a sum of D products in any order (Higham, Accuracy and Stability, section 3.1).
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

    def bounds(self, rows: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Least and largest score [n, Q] of rows [n, D] that FP32 allows for."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            squares = np.vecdot(rows, rows)[:, None]
            products = rows @ self._single
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
