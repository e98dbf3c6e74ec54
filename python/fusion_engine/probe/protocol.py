"""The protocol of linear evaluation (Niizumi et al. 2022, section IV)."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError, NumericalError
from .cache import key_of
from .linear import (
    LEARNING_RATES,
    MAX_EPOCHS,
    PATIENCE,
    SEEDS,
    LinearProbe,
    check_device,
    train_probes,
)
from .result import NOT_TESTED, FoldResult, ProbeResult
from .tasks.base import Task

# Of the examples of each class in the training folds, rounded, at least one.
HELD_OUT = 0.1
_HOLD_OUT_SEED = 0

_BLOCK_ROWS = 1024

Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Partition:
    """The indices of the examples of one training; ``fold`` is ``None`` for a task with splits."""

    fold: int | None
    train: Indices
    valid: Indices
    test: Indices


def partitions(task: Task) -> Iterator[Partition]:
    """The trainings of a task: one of a task with splits, one for each fold of the others.

    A fold is the test set once; of the other folds a tenth of every class, at least one example,
    is held out for validation, drawn with a fixed seed and the same for all probes.

    Raises:
        DatasetError: a class with too few examples for training, or for the hold-out.
    """
    targets = targets_of(task)
    if not task.folds:
        splits = np.array([example.split for example in task.examples])
        partition = Partition(
            None, *(np.flatnonzero(splits == s) for s in ("train", "valid", "test"))
        )
        _check_classes(task, targets, partition)
        yield partition
        return
    folds = np.array([example.fold for example in task.examples])
    for fold in task.folds:
        rest = np.flatnonzero(folds != fold)
        held_out = _hold_out(targets[rest], np.random.default_rng([_HOLD_OUT_SEED, fold]))
        partition = Partition(fold, rest[~held_out], rest[held_out], np.flatnonzero(folds == fold))
        _check_classes(task, targets, partition)
        yield partition


def check_trainable(task: Task) -> None:
    """Refuse what cannot be trained on, before it is embedded.

    Raises:
        DatasetError: as ``partitions``.
    """
    for _ in partitions(task):
        pass


def _hold_out(targets: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A mask of the examples that are held out."""
    held_out = np.zeros(len(targets), bool)
    for target in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == target))
        held_out[members[: max(1, round(HELD_OUT * len(members)))]] = True
    return held_out


def _check_classes(task: Task, targets: NDArray[np.int64], partition: Partition) -> None:
    """Refuse a class that cannot be learnt, which would only look like a bad embedding."""
    absent = set(range(len(task.classes))).difference(targets[partition.train].tolist())
    if absent:
        where = (
            "in train"
            if partition.fold is None
            else f"left to train on outside fold {partition.fold}, where one more is held out"
        )
        raise DatasetError(
            f"{task.name}: class {task.classes[min(absent)]!r} has no example {where}, expected "
            "every class to have one; give it more examples, or leave the class out"
        )


def targets_of(task: Task) -> NDArray[np.int64]:
    """The class of each example [N], an index into ``task.classes``."""
    index = {label: number for number, label in enumerate(task.classes)}
    return np.array([index[example.label] for example in task.examples], np.int64)


def examples_digest(task: Task) -> str:
    """A digest of files, labels and splits or folds, wherever the data set lies."""
    root = os.path.commonpath([e.path.absolute().parent for e in task.examples])
    return key_of(
        [
            [
                os.path.relpath(example.path.absolute(), root),
                example.label,
                example.split,
                example.fold,
            ]
            for example in task.examples
        ]
    )


def evaluate(
    task: Task,
    embeddings: NDArray[np.float32],
    *,
    identity: str = "",
    seeds: Sequence[int] = SEEDS,
    learning_rates: Sequence[float] = LEARNING_RATES,
    max_epochs: int = MAX_EPOCHS,
    patience: int = PATIENCE,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ProbeResult:
    """Linear evaluation of a task's embeddings.

    The embeddings are standardised with the mean and the standard deviation of the training set.
    For each seed a probe is trained with every learning rate, as ``train_probes`` says; the one
    with the best validation accuracy (of equals the smallest learning rate) is tested. A task
    with folds is evaluated once for each fold, and the accuracy is the mean.

    Args:
        task: its examples.
        embeddings: [N, D] in the order of the examples, for instance from ``extract``, or some
            columns of it.
        identity: of what made them; kept in the result.
        seeds: of initial weights and order of minibatches.
        learning_rates: to choose from.
        max_epochs: the most passes over the training set.
        patience: epochs without a better validation accuracy after which a probe stops.
        device: where to train, ``cpu`` or a CUDA device of torch's.
        progress: called with the epochs done and the most that there may be, of all folds.

    Raises:
        BackendError: no torch, or it has no such device.
        DatasetError: a class without an example to train on.
        NumericalError: embeddings that are not finite.
        ValueError: embeddings of another shape, no seed or learning rate, or a number below 1.
    """
    check_device(device)
    if embeddings.ndim != 2 or len(embeddings) != len(task.examples):
        raise ValueError(
            f"the embeddings have shape {list(embeddings.shape)}, expected "
            f"[{len(task.examples)}, D]: a row for each example of {task.name}"
        )
    if not seeds or not learning_rates or min(max_epochs, patience) < 1:
        raise ValueError(
            f"got seeds {list(seeds)}, learning_rates {list(learning_rates)}, max_epochs "
            f"{max_epochs} and patience {patience}, expected at least one of each"
        )
    targets = targets_of(task)
    predictions = np.full((len(seeds), len(targets)), NOT_TESTED, np.int64)
    parts, folds = list(partitions(task)), []
    for number, part in enumerate(parts):

        def advance(epoch: int, before: int = number * max_epochs) -> None:
            if progress is not None:
                progress(before + epoch, len(parts) * max_epochs)

        scaler = Scaler(_rows(embeddings, part.train))
        trained = train_probes(
            scaler.train,
            targets[part.train],
            scaler.transform(_rows(embeddings, part.valid)),
            targets[part.valid],
            classes=len(task.classes),
            seeds=seeds,
            learning_rates=learning_rates,
            max_epochs=max_epochs,
            patience=patience,
            device=device,
            progress=advance,
        )
        advance(max_epochs)
        chosen = [_best(probes, learning_rates) for probes in trained]
        test = scaler.transform(_rows(embeddings, part.test))
        for place, (probe, _) in enumerate(chosen):
            predictions[place, part.test] = probe.predict(test)
        right = predictions[:, part.test] == targets[part.test]
        folds.append(
            FoldResult(
                fold=part.fold,
                train=len(part.train),
                valid=len(part.valid),
                test=len(part.test),
                accuracies=tuple(right.mean(axis=1).tolist()),
                valid_accuracies=tuple(probe.valid_accuracy for probe, _ in chosen),
                learning_rates=tuple(rate for _, rate in chosen),
                best_epochs=tuple(probe.best_epoch for probe, _ in chosen),
                epochs=tuple(probe.epochs for probe, _ in chosen),
            )
        )
    return ProbeResult(
        task=task.name,
        classes=task.classes,
        examples=examples_digest(task),
        identity=identity,
        embedding_dim=embeddings.shape[1],
        seeds=tuple(seeds),
        folds=tuple(folds),
        targets=tuple(targets.tolist()),
        predictions=tuple(map(tuple, predictions.tolist())),
        notes=task.notes,
    )


def _best(
    probes: Sequence[LinearProbe], learning_rates: Sequence[float]
) -> tuple[LinearProbe, float]:
    """The probe with the best validation accuracy, and its learning rate."""
    pairs = zip(probes, learning_rates, strict=True)
    return max(pairs, key=lambda pair: (pair[0].valid_accuracy, -pair[1]))


class Scaler:
    """Standardisation by column, with the statistics of a training set.

    Args:
        train: [n, D]; standardised in place. A column that is constant in it is only centred.

    Attributes:
        train: the same memory, standardised.
    """

    def __init__(self, train: NDArray[np.float32]) -> None:
        mean = train.mean(axis=0, dtype=np.float64)
        square = np.zeros_like(mean)
        for block in row_blocks(train):
            square += ((block - mean) ** 2).sum(axis=0)
        std = np.sqrt(square / len(train))
        # Not by the deviation: rounding of the mean leaves one that is not quite zero.
        std[train.min(axis=0) == train.max(axis=0)] = 1.0
        self._mean, self._std = mean, std
        self.train = self.transform(train)

    def transform(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Standardise x [m, D] in place, and return it."""
        for block in row_blocks(x):
            block[:] = (block - self._mean) / self._std
        return x


def row_blocks(x: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Views of a few rows each, which bound the temporaries in FP64."""
    for first in range(0, len(x), _BLOCK_ROWS):
        yield x[first : first + _BLOCK_ROWS]


def _rows(embeddings: NDArray[np.float32], indices: Indices) -> NDArray[np.float32]:
    """A copy of some rows, C-contiguous, read a few at a time."""
    rows = np.empty((len(indices), embeddings.shape[1]), np.float32)
    for first in range(0, len(indices), _BLOCK_ROWS):
        block = embeddings[indices[first : first + _BLOCK_ROWS]]
        if not np.isfinite(block).all():
            row = indices[first + int(np.argmin(np.isfinite(block).all(axis=1)))]
            raise NumericalError(
                f"the embedding of example {row} has values that are not finite, expected finite "
                "ones; check the artifact that made it"
            )
        rows[first : first + _BLOCK_ROWS] = block
    return rows
