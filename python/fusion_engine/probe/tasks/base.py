"""What a task is: labelled audio files, each in a split or a fold."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..._words import listed
from ...errors import DatasetError

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One audio file with its class, in a split or in a fold."""

    path: Path
    label: str
    split: Split | None = None
    fold: int | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """A classification task.

    Attributes:
        name: as in the registry, for file names and the command line.
        title: as the data set writes itself.
        seconds: the length to which clips are cropped or zero-padded; ``None``: as they are.
        classes: the labels, sorted.
        examples: every file once; either all have a ``split`` (all three occur) or all have a
            ``fold`` (two or more occur).
        notes: what whoever reads the results must know (a split that is not the published one,
            files left out), one sentence each.

    Raises:
        DatasetError: any of this does not hold.
    """

    name: str
    title: str
    seconds: float | None
    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.examples:
            raise DatasetError(f"{self.name}: no example, expected labelled audio files")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise DatasetError(f"{self.name}: clips of {self.seconds} s, expected a length above 0")
        if self.classes != tuple(sorted(set(self.classes))) or len(self.classes) < 2:
            raise DatasetError(
                f"{self.name}: the classes are {_some(self.classes)}, expected two or more, sorted "
                "and each once"
            )
        self._check_labels()
        self._check_paths()
        self._check_partition()

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds, sorted; empty for a task with splits."""
        return tuple(sorted({e.fold for e in self.examples if e.fold is not None}))

    def _check_labels(self) -> None:
        found = {example.label for example in self.examples}
        if found != set(self.classes):
            unknown, absent = sorted(found - set(self.classes)), sorted(set(self.classes) - found)
            problem = (
                f"examples of {_some(unknown)}, which is no class of it"
                if unknown
                else f"no example of {_some(absent)}"
            )
            raise DatasetError(
                f"{self.name}: {problem}, expected examples of exactly the {len(self.classes)} "
                "classes"
            )

    def _check_paths(self) -> None:
        paths = {str(example.path) for example in self.examples}
        if len(paths) != len(self.examples):
            counts = Counter(str(example.path) for example in self.examples)
            path, times = counts.most_common(1)[0]
            raise DatasetError(
                f"{self.name}: {path} is there {times} times, expected every file once"
            )

    def _check_partition(self) -> None:
        for example in self.examples:
            if (example.split is None) == (example.fold is None):
                raise DatasetError(
                    f"{self.name}: {example.path} has split {example.split} and fold "
                    f"{example.fold}, expected exactly one of them"
                )
        splits = {example.split for example in self.examples}
        if None in splits and len(splits) > 1:
            raise DatasetError(
                f"{self.name}: some examples have a split and others a fold, expected the same "
                "for all"
            )
        if None not in splits and len(splits) < len(SPLITS):
            absent = next(split for split in SPLITS if split not in splits)
            raise DatasetError(
                f"{self.name}: no example in {absent}, expected train, valid and test to have some"
            )
        if None in splits and len(self.folds) < 2:
            raise DatasetError(
                f"{self.name}: every example is in fold {self.folds[0]}, expected two folds or more"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """What a data set leaves open.

    Attributes:
        seed: of splits that are drawn, and of synthetic audio.
        split_list: a CSV with ``file_name`` and ``split``, in place of a split that is drawn.
        exclude_list: a text file with a clip to leave out in each line, in place of those that are
            left out otherwise.
    """

    seed: int = 0
    split_list: Path | None = None
    exclude_list: Path | None = None


Reader = Callable[[Path, ReadOptions], Task]
"""Reads a task from the data set's folder."""


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """What is known of a task before its files are there.

    Attributes:
        classes, examples: how many there are in the distributor's release, without what its
            authors call faulty; ``examples`` is ``None`` where it differs from one download to
            the next.
        seconds: the clip length.
        protocol: how the examples are split.
        homepage: where to get the data set.
        size: what it takes on disk, unpacked, for the reader's eyes.
        layout: the folders and files expected, as a tree, below the root.
        read: the reader.
        lists: whether it takes ``ReadOptions.split_list`` and ``ReadOptions.exclude_list``: the
            data sets whose distributors publish no split.
    """

    name: str
    title: str
    classes: int
    examples: int | None
    seconds: float
    protocol: str
    homepage: str
    size: str
    layout: str
    read: Reader
    lists: bool = False

    def error(self, root: Path, problem: str) -> DatasetError:
        """``problem``, found below ``root``, with what was expected and where to get it."""
        return DatasetError(
            f"{self.title}: {problem}\n"
            f"expected in {root}:\n\n{self.layout}\n\n"
            f"get it from {self.homepage} ({self.size}) and unpack all of it"
        )

    def task(self, examples: Iterable[Example], notes: Iterable[str] = ()) -> Task:
        """The task of ``examples``, in order of path, with a note where the counts are not usual.

        Raises:
            DatasetError: the examples make no task.
        """
        ordered = tuple(sorted(examples, key=lambda example: str(example.path)))
        classes = tuple(sorted({example.label for example in ordered}))
        notes = list(notes)
        if self.examples is not None and len(ordered) != self.examples:
            notes.append(f"{len(ordered)} clips, the distributor's release has {self.examples}")
        if len(classes) != self.classes:
            notes.append(f"{len(classes)} classes, the distributor's release has {self.classes}")
        return Task(
            name=self.name,
            title=self.title,
            seconds=self.seconds,
            classes=classes,
            examples=ordered,
            notes=tuple(notes),
        )


def _some(labels: tuple[str, ...] | list[str]) -> str:
    """``labels`` for a message: the first few, and how many more."""
    return listed(labels, repr, most=5) or "none"
