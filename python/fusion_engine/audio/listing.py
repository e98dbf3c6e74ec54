"""Lists of recordings and of parts of them: a path a line, or CSV."""

import csv
import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

from ..errors import FusionEngineError

_COLUMN = "path"


class Listed(NamedTuple):
    """A recording, or a part of one, that a list names.

    Attributes:
        path: of the file, as it is listed.
        start: of the part, in seconds of the recording; None: where the recording starts.
        end: of the part, in seconds of the recording; None: where the recording ends.
        line: of the list, from 1 on; 0 if it is from no list.
    """

    path: Path
    start: float | None = None
    end: float | None = None
    line: int = 0


def read_list(source: Path | TextIO) -> list[Listed]:
    """The entries of a list, in its order; no file that it names is looked at.

    A list whose first line that is not blank is a CSV header with a column ``path`` is CSV; it may
    have columns ``start`` and ``end``, in seconds of the recording, whose empty fields mean its
    start and its end, and others, which are ignored. Any other list has a path a line, taken as it
    stands: with commas, quotes and spaces. (A file called ``path`` on the first line is
    ``./path``.) Relative paths are relative to the working directory.

    The text is UTF-8, with or without a byte order mark, its lines end in LF or CRLF, and blank
    lines are skipped. Bytes that are not UTF-8 keep working as names of files.

    Args:
        source: the list's file, ``-`` for standard input, or an open one.

    Raises:
        FusionEngineError: a list that cannot be read, has no entries or a line that is none.
    """
    if isinstance(source, Path):
        name, opened = _open(source)
    else:
        name, opened = str(getattr(source, "name", "list")), nullcontext(source)
    try:
        with opened as file:
            listed = list(_entries(file, name))
    except OSError as error:
        raise _cannot_read(name, error) from error
    except UnicodeDecodeError as error:  # of an open one
        raise FusionEngineError(f"{name}: {error}, expected UTF-8 text") from error
    if not listed:
        raise FusionEngineError(
            f"{name}: the list has no entries, expected a path a line, or CSV with a column `path`"
        )
    return listed


def _open(path: Path) -> tuple[str, AbstractContextManager[TextIO]]:
    name, file = ("standard input", 0) if path == Path("-") else (str(path), path)
    try:
        # Lines end at line feeds alone: other line ends may be in names.
        return name, open(
            file, encoding="utf-8", errors="surrogateescape", newline="\n", closefd=file != 0
        )
    except OSError as error:
        raise _cannot_read(name, error) from error


def _cannot_read(name: str, error: OSError) -> FusionEngineError:
    return FusionEngineError(f"{name}: {error.strerror or error}, expected a list that may be read")


def _entries(file: Iterable[str], name: str) -> Iterator[Listed]:
    lines = iter(file)
    lines = chain([next(lines, "").removeprefix("\ufeff")], lines)
    for blank, first in enumerate(lines):
        if first.strip():
            columns = _header(first)
            rest = chain([first], lines)
            return _rows(rest, name, blank, columns) if columns else _paths(rest, name, blank)
    return iter(())


def _header(line: str) -> list[str] | None:
    """The columns' names, if this is the header of a list in CSV."""
    try:
        columns = [column.strip() for column in next(csv.reader([line], strict=True))]
    except csv.Error:
        return None
    return columns if _COLUMN in columns else None


def _paths(lines: Iterable[str], name: str, before: int) -> Iterator[Listed]:
    for number, line in enumerate(lines, before + 1):
        if line.strip():
            text = line.removesuffix("\n").removesuffix("\r")
            yield Listed(_path(text, name, number), line=number)


def _rows(lines: Iterable[str], name: str, before: int, columns: list[str]) -> Iterator[Listed]:
    for column in (_COLUMN, "start", "end"):
        if columns.count(column) > 1:
            _refuse(name, before + 1, f"got {columns.count(column)} columns `{column}`", "one")
    at = columns.index(_COLUMN)
    start, end = (columns.index(c) if c in columns else None for c in ("start", "end"))
    reader = csv.reader(lines, strict=True)
    next(reader)
    while True:
        number = before + reader.line_num + 1  # a quoted path may go over several lines
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            _refuse(name, number, f"{error}", "CSV with quoted fields closed")
        if not row or (len(row) == 1 and not row[0].strip()):
            continue
        if len(row) != len(columns):
            expected = f"{len(columns)} as in the header; quote a path that holds a comma"
            _refuse(name, number, f"got {len(row)} fields", expected)
        first = None if start is None else _seconds(row[start], "start", name, number)
        last = None if end is None else _seconds(row[end], "end", name, number)
        if last is not None and (first or 0.0) >= last:
            _refuse(name, number, f"got start {first or 0:g} and end {last:g}", "start before end")
        yield Listed(_path(row[at], name, number), first, last, number)


def _path(text: str, name: str, number: int) -> Path:
    if not text:
        _refuse(name, number, "got an empty path", "that of an audio file")
    if "\0" in text:
        _refuse(name, number, "got a zero byte", "UTF-8 text, a path a line")
    return Path(text)


def _seconds(text: str, column: str, name: str, number: int) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        _refuse(name, number, f"got {column} {text.strip()!r}", "seconds, 0 or more, such as 2.5")
    return value


def _refuse(name: str, number: int, got: str, expected: str) -> NoReturn:
    raise FusionEngineError(f"{name}: line {number}: {got}, expected {expected}")
