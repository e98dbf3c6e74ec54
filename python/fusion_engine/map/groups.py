"""What the points are coloured by: a folder of their paths, or a column of a CSV."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from .._words import counted, listed
from ..errors import FusionEngineError

FOLDER = "folder"
# Colours that can be told apart, on white and on a dark page, with a contrast of 3:1 to it.
LIGHT = (
    *("#0072b2", "#c2500a", "#007f5f", "#a83e83", "#8a6d00", "#128391", "#d1273d", "#5b4bb5"),
    *("#5f7300", "#7a4b2a", "#cf4f86"),
)
DARK = (
    *("#56b4e9", "#ff9655", "#2fcf9f", "#e58ac4", "#e6c229", "#4fd8e0", "#ff6b78", "#a79bff"),
    *("#b6d437", "#c99a6b", "#ffa3c7"),
)
OTHER_LIGHT, OTHER_DARK = "#80868f", "#7d8590"


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The group of each of n rows.

    Args:
        by: what they are grouped by.
        names: largest group first; the last may be ``None``, of rows without a label.
        of_row: [n] int32, index into ``names``.
    """

    by: str
    names: list[str | None]
    of_row: NDArray[np.int32]

    @property
    def unlabelled(self) -> int:
        """Rows without a label."""
        if not self.names or self.names[-1] is not None:
            return 0
        return int((self.of_row == len(self.names) - 1).sum())

    @property
    def colours(self) -> NDArray[np.uint8]:
        """[n]: index into a palette, whose length stands for all other groups."""
        last = len(self.names) - (self.names[-1] is None)
        coloured = min(len(LIGHT), last)
        return np.where(self.of_row < coloured, self.of_row, len(LIGHT)).astype(np.uint8)

    @property
    def legend(self) -> list[tuple[int, str, int]]:
        """Colour, name and number of rows of what has a colour of its own, then of the others."""
        counts = np.bincount(self.colours, minlength=len(LIGHT) + 1)
        labelled = [name for name in self.names if name is not None]
        entries = [(i, name, int(counts[i])) for i, name in enumerate(labelled[: len(LIGHT)])]
        others = len(labelled) - len(entries)
        parts = [f"{others} other{'' if others == 1 else 's'}"] if others else []
        parts += ["no label"] if self.unlabelled else []
        if parts:
            entries.append((len(LIGHT), ", ".join(parts), int(counts[len(LIGHT)])))
        return entries


def _grouped(by: str, labels: Sequence[str | None]) -> Groups:
    counts = Counter(labels)
    unlabelled = counts.pop(None, 0)
    names: list[str | None] = [*sorted(counts, key=lambda name: (-counts[name], name))]
    names += [None] if unlabelled else []
    place = {name: number for number, name in enumerate(names)}
    of_row = np.array([place[label] for label in labels], np.int32)
    return Groups(by=by, names=names, of_row=of_row)


def by_folder(paths: Sequence[str]) -> Groups:
    """Group by the first folder in which the paths differ; ``.`` is that of files beside them."""
    folders = {path: PurePosixPath(path).parent.parts for path in set(paths)}
    levels = zip(*folders.values(), strict=False)
    common = len(list(takewhile(lambda names: len(set(names)) == 1, levels)))
    top = {path: parts[common] if len(parts) > common else "." for path, parts in folders.items()}
    return _grouped(FOLDER, [top[path] for path in paths])


def by_column(
    paths: Sequence[str], labels: str | os.PathLike[str], column: str, root: str | os.PathLike[str]
) -> Groups:
    """Group by a column of a CSV.

    Args:
        paths: of the rows.
        labels: a CSV with the column ``path``: as in the table, or relative to the CSV.
        column: its name.
        root: the folder in which relative paths of the table begin.

    Raises:
        FusionEngineError: a CSV that cannot be read, has no such column, or has none of the paths.
    """
    found = _read_labels(Path(labels), column)
    beside = Path(labels).parent
    by_file = {os.path.relpath(beside / path): label for path, label in found.items()}
    by_path = {
        path: found.get(path) or by_file.get(os.path.relpath(Path(root) / path))
        for path in set(paths)
    }
    if not any(by_path.values()):
        raise FusionEngineError(
            f"{labels}: none of its {counted(len(found), 'path')} with a label is in the table; it "
            f"has {next(iter(found), 'none')!r}, the table {paths[0]!r}; expected the table's "
            "paths, or paths relative to the CSV"
        )
    return _grouped(column, [by_path[path] or None for path in paths])


def _read_labels(path: Path, column: str) -> dict[str, str]:
    """The label of each path; empty ones are none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            for name in ("path", column):
                if name not in columns:
                    raise FusionEngineError(
                        f"{path}: no column {name!r}, it has {listed(columns) or 'none'}"
                    )
            return {row["path"]: row[column] for row in reader if row["path"] and row[column]}
    except (UnicodeDecodeError, csv.Error) as error:
        raise FusionEngineError(f"{path}: not a CSV in UTF-8 ({error})") from error
