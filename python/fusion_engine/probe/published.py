"""The accuracies that the paper published, as far as they are known here."""

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

Table = Literal["III", "IV"]
_FILE = "published.json"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of Table III or Table IV of Niizumi et al. 2022.

    Attributes:
        table: III, the original models' last layer and their fusion; IV, other representations.
        system: a preset's name in Table III (``vggish-fusion``), a short name in Table IV.
        title: as the paper prints it.
        accuracy: percent for each task; ``None`` where the number is not known here.
        source: where the numbers were read; ``None`` where there are none.
    """

    table: Table
    system: str
    title: str
    accuracy: Mapping[str, float | None]
    source: str | None


@dataclass(frozen=True, kw_only=True)
class Published:
    """Both tables.

    Attributes:
        paper: the reference.
        missing: what is not filled in, in words; shown with every report.
        rows: in the order of the paper.
    """

    paper: str
    missing: str
    rows: tuple[PublishedRow, ...]

    def table(self, table: Table) -> tuple[PublishedRow, ...]:
        """The rows of one table."""
        return tuple(row for row in self.rows if row.table == table)

    def accuracy(self, system: str, task: str) -> float | None:
        """Percent; ``None`` where the number, the system or the task is not known here."""
        return next((r.accuracy.get(task) for r in self.rows if r.system == system), None)


def published(path: str | os.PathLike[str] | None = None) -> Published:
    """The published accuracies.

    Args:
        path: a completed copy of the package's file, in place of it.

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
            missing=str(data["missing"]),
            rows=tuple(_row(row, data["sources"]) for row in data["rows"]),
        )
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}, expected a copy of {_FILE}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path}: {type(error).__name__}: {error}; expected a copy of the package's {_FILE} "
            "with numbers in place of null"
        ) from None


def _row(row: Mapping[str, Any], sources: Mapping[str, str]) -> PublishedRow:
    if row["table"] not in get_args(Table):
        raise ValueError(f"{row['system']}: table {row['table']!r}, expected III or IV")
    accuracy = {
        str(task): _percent(row["system"], value) for task, value in row["accuracy"].items()
    }
    source = row["source"]
    known = any(value is not None for value in accuracy.values())
    if known and source is None:
        raise ValueError(f"{row['system']}: numbers without a source")
    return PublishedRow(
        table=row["table"],
        system=str(row["system"]),
        title=str(row["title"]),
        accuracy=MappingProxyType(accuracy),
        source=None if source is None else sources[source],
    )


def _percent(system: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise ValueError(f"{system}: {value!r}, expected percent or null")
    return float(value)
