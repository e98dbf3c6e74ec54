"""The paper's Table III for what was probed, beside the published numbers."""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..errors import FusionEngineError
from .published import Published
from .records import ProbeRecord, System
from .tasks import TASKS

RowSource = Literal["measured", "published"]
TableFormat = Literal["md", "csv", "tex"]
TABLE_FORMATS: tuple[TableFormat, ...] = ("md", "csv", "tex")

# The paper's order of models.
_PAIRS = tuple((f"{model}-last", f"{model}-fusion") for model in ("vggish", "cnn14", "ast"))


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row of the table.

    Attributes:
        system: what made the embeddings, for people.
        source: probed here, or published.
        accuracy: percent for each task that has a value; points for a difference.
        std: the standard deviation over the seeds, where it was probed here.
        starred: tasks whose published number is the paper's own measurement of another system.
        printed_average: of a published row over all of the paper's tasks.
        is_difference: fusion minus last layer.
    """

    system: str
    source: RowSource
    accuracy: Mapping[str, float]
    std: Mapping[str, float] = field(default_factory=dict)
    starred: frozenset[str] = frozenset()
    printed_average: float | None = None
    is_difference: bool = False


@dataclass(frozen=True, kw_only=True)
class AccuracyTable:
    """A table of accuracies.

    Attributes:
        tasks: names and titles, in order.
        rows: in order.
        notes: what whoever reads the table must know, a sentence each.
    """

    tasks: Mapping[str, str]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]

    def average(self, row: TableRow) -> float | None:
        """Over all tasks of the table; ``None`` where one is missing, since means over different
        tasks must not be compared.
        """
        if row.accuracy.keys() != self.tasks.keys():
            return None
        if row.printed_average is not None:
            return row.printed_average
        return statistics.fmean(row.accuracy.values())

    def render(self, form: TableFormat) -> str:
        """The table as Markdown, CSV or LaTeX."""
        return {"md": self._markdown, "csv": self._csv, "tex": self._latex}[form]()

    def _markdown(self) -> str:
        head = ["system", "", *self.tasks.values(), "average"]
        lines = [_markdown_row(head), "|---|---|" + "--:|" * (len(self.tasks) + 1)]
        lines += [_markdown_row(self._cells(row)) for row in self.rows]
        lines += ["", "Accuracy in percent; ± is the standard deviation over the seeds.", ""]
        lines += [f"- {' '.join(note.split())}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"

    def _csv(self) -> str:
        """A line for each value: system, source (``published*`` where starred), task, ..."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["system", "source", "task", "accuracy", "std"])
        for row in self.rows:
            for task, value in row.accuracy.items():
                std = f"{row.std[task]:.4f}" if task in row.std else ""
                source = f"{row.source}*" if task in row.starred else row.source
                writer.writerow([row.system, source, task, f"{value:.4f}", std])
            average = self.average(row)
            if average is not None:
                writer.writerow([row.system, row.source, "average", f"{average:.4f}", ""])
        return text.getvalue()

    def _latex(self) -> str:
        """A tabular for the package booktabs."""
        head = ["system", "", *self.tasks.values(), "average"]
        lines = [f"% {' '.join(note.split())}" for note in self.notes]
        lines += [r"\begin{tabular}{ll" + "r" * (len(self.tasks) + 1) + "}", r"\toprule"]
        lines += [_latex_row(head), r"\midrule"]
        lines += [_latex_row(self._cells(row)) for row in self.rows]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def _cells(self, row: TableRow) -> list[str]:
        form = "{:+.1f}" if row.is_difference else "{:.1f}"
        cells = [row.system, row.source]
        for task in self.tasks:
            if task not in row.accuracy:
                cells.append("–")
                continue
            cell = form.format(row.accuracy[task]) + ("*" if task in row.starred else "")
            cells.append(f"{cell} ± {row.std[task]:.1f}" if task in row.std else cell)
        average = self.average(row)
        return [*cells, "–" if average is None else form.format(average)]


def accuracy_table(records: Iterable[ProbeRecord], tables: Published) -> AccuracyTable:
    """Last layer, fusion and difference of each model, measured and published, and what else is.

    Args:
        records: of any systems and tasks, each pair once.
        tables: the published numbers; rows without one for these tasks are left out.

    Raises:
        FusionEngineError: no record, two of the same system and task, or records of a task on
            other clips, labels or splits than the others.
    """
    records = tuple(records)
    found: dict[System, dict[str, ProbeRecord]] = {}
    firsts: dict[str, ProbeRecord] = {}
    for record in records:
        of_system = found.setdefault(record.system, {})
        if record.result.task in of_system:
            raise FusionEngineError(
                f"there are two results of {record.system.label} on {record.result.task}, expected "
                "one; name the files that you mean"
            )
        of_system[record.result.task] = record
        first = firsts.setdefault(record.result.task, record)
        if record.result.examples != first.result.examples:
            raise FusionEngineError(
                f"{record.result.task}: {first.system.label} and {record.system.label} were probed "
                "on different clips, labels or splits, and a table would compare them; name the "
                "files that belong together, or run one again with the other's options"
            )
    if not found:
        raise FusionEngineError("there is no result, expected one or more of `probe run`")
    titles = {record.result.task: record.title for record in records}
    known = [name for name in TASKS if name in titles]
    tasks = {name: titles[name] for name in (*known, *sorted(titles.keys() - set(known)))}
    rows: list[TableRow] = []
    for last, fusion in _PAIRS:
        rows += _model_rows(last, fusion, found, tasks, tables)
    presets = {name for pair in _PAIRS for name in pair}
    rows += [_measured(system, found[system]) for system in found if system.name not in presets]
    rows += [
        row
        for entry in tables.table("IV")
        if (row := _published(entry.system, entry.title, tasks, tables)).accuracy
    ]
    return AccuracyTable(tasks=tasks, rows=tuple(rows), notes=_notes(records, tasks, rows, tables))


def _model_rows(
    last: str,
    fusion: str,
    found: Mapping[System, Mapping[str, ProbeRecord]],
    tasks: Mapping[str, str],
    tables: Published,
) -> list[TableRow]:
    """Last layer, fusion and their difference: as measured, then as published."""
    rows = []
    ours = {name: [system for system in found if system.name == name] for name in (last, fusion)}
    for system in (*ours[last], *ours[fusion]):
        rows.append(_measured(system, found[system]))
    for one in ours[last]:
        for two in ours[fusion]:
            if _comparable(one) == _comparable(two):
                label = two.label.replace(fusion, f"{fusion} − {last}", 1)
                rows.append(_minus(_measured(two, found[two]), _measured(one, found[one]), label))
    rows += [_published(name, name, tasks, tables) for name in (last, fusion)]
    claimed = tables.difference(fusion)
    if claimed is not None:
        rows.append(
            TableRow(
                system=f"{fusion} − {last}",
                source="published",
                accuracy={
                    task: claimed.accuracy[task] for task in tasks if task in claimed.accuracy
                },
                printed_average=_printed(claimed.average, claimed.accuracy, tasks),
                is_difference=True,
            )
        )
    return [row for row in rows if row.accuracy] if ours[last] or ours[fusion] else []


def _comparable(system: System) -> tuple[str, ...]:
    """What must be the same for a difference between layers to be one."""
    normalization = "task" if system.normalized else "model"
    return system.model, system.weights_sha256, system.precision, system.head, normalization


def _measured(system: System, records: Mapping[str, ProbeRecord]) -> TableRow:
    return TableRow(
        system=system.label,
        source="measured",
        accuracy={task: 100 * record.result.accuracy for task, record in records.items()},
        std={task: 100 * record.result.std for task, record in records.items()},
    )


def _published(system: str, title: str, tasks: Iterable[str], tables: Published) -> TableRow:
    row = tables.row(system)
    known = {} if row is None else row.accuracy
    return TableRow(
        system=title,
        source="published",
        accuracy={task: value for task in tasks if (value := known.get(task)) is not None},
        starred=frozenset() if row is None else row.starred.intersection(tasks),
        printed_average=None if row is None else _printed(row.average, known, tasks),
    )


def _printed(average: float | None, known: Iterable[str], tasks: Iterable[str]) -> float | None:
    """The paper's average, for a table of just the paper's tasks."""
    return average if set(known) == set(tasks) else None


def _minus(row: TableRow, other: TableRow, label: str) -> TableRow:
    return TableRow(
        system=label,
        source=row.source,
        accuracy={
            task: value - other.accuracy[task]
            for task, value in row.accuracy.items()
            if task in other.accuracy
        },
        is_difference=True,
    )


def _notes(
    records: Iterable[ProbeRecord],
    tasks: Mapping[str, str],
    rows: Iterable[TableRow],
    tables: Published,
) -> tuple[str, ...]:
    notes = {f"{record.title}: {note}": None for record in records for note in record.result.notes}
    if any(row.source == "published" for row in rows):
        notes[f"published: {tables.paper}"] = None
    if any(row.starred for row in rows):
        notes[f"* {tables.starred}"] = None
    for task, title in tasks.items():
        absent = [row.title for row in tables.rows if row.accuracy.get(task, 0.0) is None]
        if absent:
            notes[f"the paper prints N/A for {title} of {' and '.join(absent)}"] = None
    return tuple(notes)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex_text, cells)) + r" \\"


_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # Other signs altogether in LaTeX's own encoding, and the start of an option after a row's end.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
}


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
