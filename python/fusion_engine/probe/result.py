"""What a linear evaluation found, and its JSON."""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .._atomic import atomic_path
from ..errors import FusionEngineError

FORMAT_VERSION = 1
# In place of a prediction where an example is not in test.
NOT_TESTED = -1


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """One training: of a task with splits the only one. The sequences have an item for each seed.

    Attributes:
        fold: the one that was the test set; ``None`` for a task with splits.
        train, valid, test: examples in each.
        accuracies: on the test set, in [0, 1].
        valid_accuracies: on the validation set, of the best epoch.
        learning_rates: chosen on the validation accuracy.
        best_epochs: whose weights were tested, from 1.
        epochs: run until the probe chosen stopped.
    """

    fold: int | None
    train: int
    valid: int
    test: int
    accuracies: tuple[float, ...]
    valid_accuracies: tuple[float, ...]
    learning_rates: tuple[float, ...]
    best_epochs: tuple[int, ...]
    epochs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """A linear evaluation: one task, one kind of embeddings, some seeds.

    Attributes:
        task: the task's name.
        classes: its classes; predictions and targets are indices into them.
        examples: a digest of the task's examples; results are aligned where it is the same.
        identity: of what made the embeddings; empty where the caller did not say.
        embedding_dim: D.
        seeds: S of them.
        folds: the trainings.
        targets: the class of each of the N examples.
        predictions: for each seed the class predicted for each example when it was in test, and
            -1 where it never was.
        notes: the task's own.
    """

    task: str
    classes: tuple[str, ...]
    examples: str
    identity: str
    embedding_dim: int
    seeds: tuple[int, ...]
    folds: tuple[FoldResult, ...]
    targets: tuple[int, ...]
    predictions: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def accuracies(self) -> tuple[float, ...]:
        """For each seed the accuracy in test, in [0, 1]; the mean over the folds."""
        return tuple(
            statistics.fmean(fold.accuracies[place] for fold in self.folds)
            for place in range(len(self.seeds))
        )

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """The standard deviation over the seeds (of a sample: divided by S − 1); 0 for one."""
        return statistics.stdev(self.accuracies) if len(self.seeds) > 1 else 0.0

    def correct(self) -> NDArray[np.bool_]:
        """[S, M]: which of the M tested examples, in their order, each seed got right."""
        predictions, targets = np.array(self.predictions), np.array(self.targets)
        tested = predictions[0] != NOT_TESTED
        right: NDArray[np.bool_] = predictions[:, tested] == targets[tested]
        return right

    def to_json(self) -> str:
        """JSON, with the accuracies and their mean and standard deviation for people to read."""
        head = {
            "format_version": FORMAT_VERSION,
            "accuracy": self.accuracy,
            "std": self.std,
            "accuracies": self.accuracies,
        }
        return json.dumps(head | asdict(self))

    @classmethod
    def from_json(cls, text: str, *, where: str = "the result") -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            FusionEngineError: not JSON, or not of this format.
        """
        try:
            data = json.loads(text)
            version = data.pop("format_version")
            if version != FORMAT_VERSION:
                raise ValueError(f"format version {version}, this version reads {FORMAT_VERSION}")
            for derived in ("accuracy", "std", "accuracies"):
                del data[derived]
            folds = tuple(FoldResult(**_tuples(fold)) for fold in data.pop("folds"))
            return cls(folds=folds, **_tuples(data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FusionEngineError(
                f"{where}: no result of a probe ({error}), expected what `fusion-engine probe` "
                "wrote; run it again"
            ) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON.

        Raises:
            FusionEngineError: it cannot be written.
        """
        with atomic_path(path) as temporary:
            temporary.write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read the JSON.

        Raises:
            FusionEngineError: missing, or not of this format.
        """
        return cls.from_json(read_written(path), where=os.fspath(path))


def read_written(path: str | os.PathLike[str]) -> str:
    """The text that ``fusion-engine probe`` wrote.

    Raises:
        FusionEngineError: missing, or no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FusionEngineError(
            f"{os.fspath(path)}: cannot be read ({error}), expected what `fusion-engine probe run` "
            "wrote"
        ) from error


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {name: _tuple(value) for name, value in data.items()}


def _tuple(value: Any) -> Any:
    return (
        tuple(map(_tuple, value))
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )
