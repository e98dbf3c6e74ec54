"""The accuracies that the paper published."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from ..errors import DatasetError

PaperTable = Literal["III", "IV"]
_FILE = "published.json"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of Table III or Table IV of Niizumi et al. 2022.

    Attributes:
        table: III, the original models' last layer and their fusion; IV, other representations.
        system: a preset's name in Table III (``vggish-fusion``), a short name in Table IV.
        title: as the paper prints it.
        accuracy: percent for each task; ``None`` where the paper prints N/A.
        starred: the tasks of Table IV that the paper's authors measured themselves, with public
            weights; the other numbers of that table they took from the systems' own papers.
        average: over all tasks, as printed; ``None`` where none is.
    """

    table: PaperTable
    system: str
    title: str
    accuracy: Mapping[str, float | None]
    starred: frozenset[str]
    average: float | None


@dataclass(frozen=True, kw_only=True)
class PublishedDifference:
    """Fusion minus last layer, as printed.

    The paper subtracts before it rounds: a difference of two printed accuracies may be 0.1 off.

    Attributes:
        fusion, last: the systems.
        accuracy: points for each task.
        average: over all tasks.
    """

    fusion: str
    last: str
    accuracy: Mapping[str, float]
    average: float


@dataclass(frozen=True, kw_only=True)
class Published:
    """Both tables.

    Attributes:
        paper: the reference.
        starred: what the mark at a number means.
        rows: in the order of the paper.
        differences: of Table III.
    """

    paper: str
    starred: str
    rows: tuple[PublishedRow, ...]
    differences: tuple[PublishedDifference, ...]

    def table(self, table: PaperTable) -> tuple[PublishedRow, ...]:
        """The rows of one table."""
        return tuple(row for row in self.rows if row.table == table)

    def row(self, system: str) -> PublishedRow | None:
        """A system's row; ``None`` where the paper has none."""
        return next((row for row in self.rows if row.system == system), None)

    def accuracy(self, system: str, task: str) -> float | None:
        """Percent; ``None`` where the paper has no number."""
        row = self.row(system)
        return None if row is None else row.accuracy.get(task)

    def difference(self, fusion: str) -> PublishedDifference | None:
        """What a fusion gains over its model's last layer."""
        return next((one for one in self.differences if one.fusion == fusion), None)


def published(path: str | os.PathLike[str] | None = None) -> Published:
    """The published accuracies.

    Args:
        path: a copy of the package's file with other numbers, in place of it.

    Raises:
        DatasetError: the file is missing, or not of this form.
    """
    return _packaged() if path is None else _read(Path(path))


@cache
def _packaged() -> Published:
    with resources.as_file(resources.files(__package__) / _FILE) as path:
        return _read(path)


def _read(path: Path) -> Published:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Published(
            paper=str(data["paper"]),
            starred=str(data["starred"]),
            rows=tuple(_row(row) for row in data["rows"]),
            differences=tuple(_difference(one) for one in data["differences"]),
        )
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}, expected a copy of {_FILE}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path}: {type(error).__name__}: {error}; expected a copy of the package's {_FILE}"
        ) from None


def _row(row: Mapping[str, Any]) -> PublishedRow:
    system = str(row["system"])
    if row["table"] not in get_args(PaperTable):
        raise ValueError(f"{system}: table {row['table']!r}, expected III or IV")
    accuracy = {
        str(task): None if value is None else _number(system, value, 0)
        for task, value in row["accuracy"].items()
    }
    starred = frozenset(map(str, row["starred"]))
    unknown = sorted(task for task in starred if accuracy.get(task) is None)
    if unknown:
        raise ValueError(f"{system}: {unknown[0]} is starred and has no number")
    average = row["average"]
    return PublishedRow(
        table=row["table"],
        system=system,
        title=str(row["title"]),
        accuracy=MappingProxyType(accuracy),
        starred=starred,
        average=None if average is None else _number(system, average, 0),
    )


def _difference(one: Mapping[str, Any]) -> PublishedDifference:
    fusion = str(one["fusion"])
    accuracy = {str(task): _number(fusion, value, -100) for task, value in one["accuracy"].items()}
    return PublishedDifference(
        fusion=fusion,
        last=str(one["last"]),
        accuracy=MappingProxyType(accuracy),
        average=_number(fusion, one["average"], -100),
    )


def _number(system: str, value: Any, lowest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= 100:
        raise ValueError(f"{system}: {value!r}, expected a number from {lowest:g} to 100")
    return float(value)
