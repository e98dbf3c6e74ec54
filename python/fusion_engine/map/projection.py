"""Embeddings [n, D] on a plane: principal components, and UMAP of them."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._install import install
from ..errors import BackendError, FusionEngineError
from ..table_reader import TableReader

Method = Literal["auto", "umap", "pca"]

MIN_ROWS = 3
UMAP_NEIGHBOURS = 15
UMAP_COMPONENTS = 50
_OVERSAMPLING = 10
_ITERATIONS = 6
_PASSES = _ITERATIONS + 2

# Called with what goes on, how many of its steps are done, and how many it has.
Progress = Callable[[str, int, int], None]


def no_progress(phase: str, step: int, steps: int) -> None:
    """Nobody waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The leading principal components of n embeddings.

    Args:
        scores: [n, k] float64, largest variance first.
        share: [k] float64, of the whole variance.
    """

    scores: NDArray[np.float64]
    share: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Where the rows are on the map.

    Args:
        points: [n, 2] float32, in [-1, 1], the same scale along both axes.
        method: ``umap`` or ``pca``.
        text: what it is, in words.
    """

    points: NDArray[np.float32]
    method: Literal["umap", "pca"]
    text: str


def principal_components(
    table: TableReader,
    count: int,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Components:
    """The ``count`` leading principal components, or as many as there are.

    Randomized subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4) in FP64 on the
    covariance, which is never formed: memory is that of a block, of 2·D·(count + 10) and of
    n·(count + 10) values. The sign of a component is that of its largest loading.

    Args:
        table: read eight times.
        count: k.
        seed: of the subspace that the iteration begins with.
        progress: called after each block, with how many rows were read.

    Raises:
        FusionEngineError: as ``TableReader.blocks``.
    """
    n, dim = len(table.rows), table.dim
    blocks = _reader(table, progress)
    mean, squares = np.zeros(dim), 0.0
    for block in blocks():
        mean += block.sum(axis=0) / n
    width = min(count + _OVERSAMPLING, n, dim)
    basis = np.random.default_rng(seed).standard_normal((dim, width))
    for iteration in range(_ITERATIONS):
        basis = np.linalg.qr(basis)[0]
        product = np.zeros((dim, width))
        for block in blocks():
            block -= mean
            if iteration == 0:
                squares += float(np.vdot(block, block))
            product += block.T @ (block @ basis)
        basis = product
    basis = np.linalg.qr(basis)[0]
    scores, row = np.empty((n, width)), 0
    for block in blocks():
        scores[row : row + len(block)] = (block - mean) @ basis
        row += len(block)
    _, values, axes = np.linalg.svd(scores, full_matrices=False)
    axes, values = axes[:count], values[:count]
    loadings = basis @ axes.T
    largest = np.abs(loadings).argmax(axis=0)
    signs = np.where(loadings[largest, range(len(axes))] < 0, -1.0, 1.0)
    share = values**2 / squares if squares > 0 else np.zeros(len(values))
    return Components(scores=scores @ axes.T * signs, share=share)


def _reader(table: TableReader, progress: Progress) -> Callable[[], Iterator[NDArray[np.float64]]]:
    """Gives a function that reads the table once more, in FP64."""
    read, rows = 0, _PASSES * len(table.rows)

    def blocks() -> Iterator[NDArray[np.float64]]:
        nonlocal read
        for block in table.blocks():
            yield block.astype(np.float64)
            read += len(block)
            progress("Projecting", read, rows)

    progress("Projecting", 0, rows)
    return blocks


def project(
    table: TableReader,
    method: Method = "auto",
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Projection:
    """Put the rows of a table on a plane; the same table and seed give the same points.

    Args:
        table: n rows.
        method: ``umap`` of the 50 leading principal components, ``pca``: the first two, or
            ``auto``: UMAP where it is installed and there are rows enough for it.
        seed: of all that is drawn.
        progress: called with what goes on, how many of its steps are done, and how many it has.

    Raises:
        BackendError: umap-learn was asked for and is not installed.
        FusionEngineError: too few rows, or as ``TableReader.blocks``.
    """
    n = len(table.rows)
    if n < MIN_ROWS:
        raise FusionEngineError(
            f"{table.path}: {n} {'row is' if n == 1 else 'rows are'} too few for a map, expected "
            f"at least {MIN_ROWS}"
        )
    if _choose(table, method) == "pca":
        components = principal_components(table, 2, seed=seed, progress=progress)
        text = f"PCA, the first two components with {_percent(components)} of the variance"
        return Projection(points=_scaled(components.scores), method="pca", text=text)
    components = principal_components(table, UMAP_COMPONENTS, seed=seed, progress=progress)
    kept = components.scores.shape[1]
    text = f"UMAP of {kept} principal components with {_percent(components)} of the variance"
    progress("UMAP", 0, 1)
    points = _umap(components.scores, seed)
    progress("UMAP", 1, 1)
    return Projection(points=_scaled(points), method="umap", text=text)


def _choose(table: TableReader, method: Method) -> Literal["umap", "pca"]:
    if method == "pca":
        return "pca"
    enough = len(table.rows) > UMAP_NEIGHBOURS
    if method == "umap" and not enough:
        raise FusionEngineError(
            f"{table.path}: {len(table.rows)} rows are too few for UMAP with {UMAP_NEIGHBOURS} "
            f"neighbours, expected at least {UMAP_NEIGHBOURS + 1}; take the method pca"
        )
    if method == "auto" and not (enough and _installed()):
        return "pca"
    return "umap"


def _installed() -> bool:
    from importlib.util import find_spec

    return find_spec("umap") is not None


def _umap(scores: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TensorFlow, for a class that is not used
            from umap import UMAP
    except ImportError as error:
        raise BackendError(
            f"umap-learn cannot be imported ({error}). Install it: {install('map')}, or take the "
            "method pca"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts without a connection, and of one thread
        # More threads would give other points in each run.
        reducer = UMAP(n_neighbors=UMAP_NEIGHBOURS, random_state=seed, n_jobs=1)
        points = reducer.fit_transform(scores.astype(np.float32))
    return np.asarray(points, np.float64)


def _percent(components: Components) -> str:
    return f"{100 * components.share.sum():.0f} %"


def _scaled(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """[n, k] to [n, 2] in [-1, 1], centred; a missing second axis is zero."""
    plane: NDArray[np.float64] = np.zeros((len(points), 2))
    plane[:, : min(2, points.shape[1])] = points[:, :2]
    low, high = plane.min(axis=0), plane.max(axis=0)
    half = float((high - low).max()) / 2
    scaled: NDArray[np.float64] = (plane - (low + high) / 2) / (half or 1)
    return scaled.astype(np.float32)
