"""Linear evaluation of embeddings: which layers, and which artifacts, serve which tasks."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from .._cache import cache_folder
from ..spec import Head
from .embeddings import Embedder, extract, layer_columns, open_engine
from .linear import LEARNING_RATES, MAX_EPOCHS, PATIENCE, SEEDS, LinearProbe, train_probes
from .protocol import check_trainable, evaluate, partitions
from .result import FoldResult, ProbeResult
from .tasks import Example, Task

__all__ = [
    "LEARNING_RATES",
    "SEEDS",
    "Embedder",
    "Example",
    "FoldResult",
    "LinearProbe",
    "ProbeResult",
    "Task",
    "evaluate",
    "extract",
    "layer_columns",
    "open_engine",
    "partitions",
    "probe",
    "probe_cache",
    "train_probes",
]


def probe_cache() -> Path:
    """Where embeddings are kept unless told otherwise: ``probe`` in the package's cache."""
    return cache_folder() / "probe"


def probe(
    artifact: str | os.PathLike[str],
    task: Task,
    *,
    cache: str | os.PathLike[str] | None = None,
    device: str = "auto",
    threads: int | None = None,
    normalization: tuple[float, float] | None = None,
    head: Head | None = None,
    crop_seed: int = 0,
    seeds: Sequence[int] = SEEDS,
    learning_rates: Sequence[float] = LEARNING_RATES,
    max_epochs: int = MAX_EPOCHS,
    patience: int = PATIENCE,
    train_device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> ProbeResult:
    """Embed a task's clips with an artifact, and evaluate the embeddings.

    Args:
        artifact: what ``fusion-engine export`` or ``build`` wrote.
        task: from ``fusion_engine.probe.tasks``, or your own.
        cache: the folder for the embeddings; ``None``: ``probe_cache()``.
        device, threads, normalization: as for ``Engine``.
        head, crop_seed: as for ``extract``.
        seeds, learning_rates, max_epochs, patience: as for ``evaluate``.
        train_device: where the probes are trained, ``cpu`` or a CUDA device of torch's.
        progress: called with ``embedding`` or ``training``, what is done, and what there is.

    Raises:
        FusionEngineError, ValueError: as ``open_engine``, ``extract`` and ``evaluate``.
    """

    def stage(name: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(name, done, total)

    check_trainable(task)
    engine, identity = open_engine(
        artifact, device=device, threads=threads, normalization=normalization
    )
    embeddings = extract(
        engine,
        task,
        identity=identity,
        cache=probe_cache() if cache is None else cache,
        head=head,
        crop_seed=crop_seed,
        progress=stage("embedding"),
    )
    return evaluate(
        task,
        embeddings,
        identity=identity,
        seeds=seeds,
        learning_rates=learning_rates,
        max_epochs=max_epochs,
        patience=patience,
        device=train_device,
        progress=stage("training"),
    )
