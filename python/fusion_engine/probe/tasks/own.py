"""Your own task, from a CSV."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from ...errors import DatasetError
from .base import SPLITS, Example, Task

_FORM = """\
file_name,label,split           or: file_name,label,fold
dogs/rex.wav,dog,train              dogs/rex.wav,dog,1
cats/tom.wav,cat,valid              cats/tom.wav,cat,2
cats/kit.wav,cat,test               cats/kit.wav,cat,3"""


def read_csv(
    path: str | os.PathLike[str],
    *,
    audio: str | os.PathLike[str] | None = None,
    seconds: float | None = None,
) -> Task:
    """A task from a CSV with the columns ``file_name``, ``label`` and ``split`` or ``fold``.

    Other columns are ignored. ``split`` is ``train``, ``valid`` or ``test``; ``fold`` is a whole
    number. The task's name is the file's, without suffix.

    Args:
        path: the CSV, UTF-8, with a header.
        audio: the folder to which ``file_name`` is relative; that of the CSV if not given.
        seconds: crop or pad clips to this length; ``None`` leaves them as they are.

    Raises:
        DatasetError: a missing file or column, or a value that is none of those; names the line.
    """
    path = Path(path)
    base = path.parent if audio is None else Path(audio)
    if not base.is_dir():
        raise _error(path, f"{base} is no folder, expected that of the audio")
    lines: dict[Path, int] = {}
    folders: dict[Path, set[str]] = {}
    examples = []
    for line, name, label, key, value in _rows(path):
        file = base / name
        if not name or not _is_there(file, folders):
            raise _error(path, f"line {line}: {file if name else 'file_name'} is missing")
        if file in lines:
            raise _error(path, f"line {line}: {name} is in line {lines[file]} as well")
        lines[file] = line
        if not label:
            raise _error(path, f"line {line}: label is empty")
        if key == "fold":
            if not (value.isascii() and value.isdigit()):
                raise _error(path, f"line {line}: fold is {value!r}, expected a whole number")
            examples.append(Example(path=file, label=label, fold=int(value)))
        else:
            split = next((split for split in SPLITS if split == value), None)
            if split is None:
                raise _error(
                    path, f"line {line}: split is {value!r}, expected train, valid or test"
                )
            examples.append(Example(path=file, label=label, split=split))
    try:
        return Task(
            name=path.stem,
            title=path.stem,
            seconds=seconds,
            classes=tuple(sorted({example.label for example in examples})),
            examples=tuple(examples),
        )
    except DatasetError as error:
        raise _error(path, str(error)) from None


def _rows(path: Path) -> Iterator[tuple[int, str, str, str, str]]:
    """Line, file name, label, ``split`` or ``fold``, its value."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            keys = [name for name in ("split", "fold") if name in header]
            if not {"file_name", "label"} <= set(header) or len(keys) != 1:
                found = ", ".join(header) or "empty"
                raise _error(
                    path,
                    f"its header is {found}; expected file_name, label and either split or fold",
                )
            places = [header.index(name) for name in ("file_name", "label", keys[0])]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise _error(
                        path,
                        f"line {reader.line_num}: {len(row)} values, expected {len(header)}",
                    )
                name, label, value = (row[place].strip() for place in places)
                yield reader.line_num, name, label, keys[0], value
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise _error(path, f"cannot be read ({reason})") from error


def _is_there(file: Path, folders: dict[Path, set[str]]) -> bool:
    """Whether ``file`` exists, by a listing of its folder: one call for all files in it."""
    folder = file.parent
    if folder not in folders:
        try:
            folders[folder] = {entry.name for entry in folder.iterdir()}
        except OSError:
            folders[folder] = set()
    return file.name in folders[folder]


def _error(path: Path, problem: str) -> DatasetError:
    return DatasetError(f"{path}: {problem}\nexpected a CSV like this:\n\n{_FORM}")
