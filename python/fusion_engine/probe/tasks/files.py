"""Looking at a data set's folders and tables, without opening the audio."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from ..._words import counted
from ...audio import AUDIO_SUFFIXES
from .base import TaskInfo

# AU, which GTZAN was first released in, is read like the others.
_SUFFIXES = (*AUDIO_SUFFIXES, ".au")


def is_audio(name: str) -> bool:
    """Whether a file is audio by its suffix, in any case."""
    return name.lower().endswith(_SUFFIXES)


def scan(info: TaskInfo, root: Path, folder: Path) -> tuple[list[str], list[str]]:
    """The names of the folders and the files in ``folder``, sorted; hidden ones are left out.

    Raises:
        DatasetError: it is no folder, or cannot be read.
    """
    folders: list[str] = []
    files: list[str] = []
    try:
        # The kind of an entry comes with the listing: no file is looked at by itself.
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise info.error(root, f"{folder}: {error.strerror}") from error
    return sorted(folders), sorted(files)


def audio_in(info: TaskInfo, root: Path, folder: Path) -> list[str]:
    """The names of the audio files in ``folder``, sorted.

    Raises:
        DatasetError: it is no folder, or cannot be read.
    """
    return [name for name in scan(info, root, folder)[1] if is_audio(name)]


def first_bytes(path: Path, count: int) -> bytes:
    """The first ``count`` bytes of a file; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def require(info: TaskInfo, root: Path, *names: str) -> None:
    """Check that ``names`` exist below ``root``.

    Raises:
        DatasetError: one does not; the message points to a folder inside that has it.
    """
    if not root.is_dir():
        raise info.error(root, f"{root} is {'a file' if root.exists() else 'missing'}")
    for name in names:
        if not (root / name).exists():
            raise info.error(root, f"{root / name} is missing{hint(info, root, name)}")


def hint(info: TaskInfo, root: Path, name: str) -> str:
    """Where ``name`` is, if the folder that was named is one too high."""
    inside = [root / folder for folder in scan(info, root, root)[0]]
    found = [folder for folder in inside if (folder / name).exists()]
    return f"; {found[0]} has one: name that folder" if found else ""


def read_table(info: TaskInfo, root: Path, name: str, columns: Iterable[str]) -> list[list[str]]:
    """``columns`` of every row of a CSV with a header; row *i* of the list is line *i* + 2.

    Raises:
        DatasetError: the file is missing, no text, or lacks a column or a value.
    """
    require(info, root, name)
    columns = list(columns)
    rows = []
    try:
        with (root / name).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            absent = [column for column in columns if column not in header]
            if absent:
                raise info.error(
                    root,
                    f"{root / name} has no column {absent[0]!r}: its header is {', '.join(header)}",
                )
            places = [header.index(column) for column in columns]
            for row in reader:
                if len(row) <= max(places):
                    raise info.error(
                        root, f"{root / name} has {len(row)} values in line {reader.line_num}"
                    )
                rows.append([row[place] for place in places])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise info.error(root, f"{root / name} cannot be read ({error})") from error
    return rows


def read_lines(info: TaskInfo, root: Path, name: str) -> list[str]:
    """The lines of a text file that are not blank, stripped.

    Raises:
        DatasetError: the file is missing or no text.
    """
    require(info, root, name)
    try:
        text = (root / name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise info.error(root, f"{root / name} cannot be read ({error})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


class Inventory:
    """The audio files in some folders, by their path below the root.

    Attributes:
        names: the paths as metadata write them, with forward slashes.
    """

    def __init__(self, info: TaskInfo, root: Path, folders: Iterable[str]) -> None:
        self._info, self._root = info, root
        self.names = {
            f"{folder}/{name}" for folder in folders for name in audio_in(info, root, root / folder)
        }

    def require(self, named: Iterable[str], where: str) -> None:
        """Check that all files that ``where`` names are there.

        Raises:
            DatasetError: one is not.
        """
        absent = [name for name in named if name not in self.names]
        if absent:
            more = f", and {len(absent) - 1} more that it names" if len(absent) > 1 else ""
            raise self._info.error(
                self._root, f"{self._root / absent[0]}, named in {where}, is missing{more}"
            )

    def extra(self, named: Iterable[str], where: str) -> list[str]:
        """A note on the files that ``where`` does not name, if there are any."""
        return left_out(sorted(self.names.difference(named)), f"{where} does not name")


def left_out(names: list[str], why: str) -> list[str]:
    """A note on files that are there and not used, if there are any."""
    if not names:
        return []
    return [f"left out {counted(len(names), 'audio file')} that {why}, such as {names[0]}"]


def read_number(info: TaskInfo, root: Path, text: str, highest: int, where: str) -> int:
    """``text`` as a number from 1 to ``highest``.

    Raises:
        DatasetError: it is none; ``where`` says which value it was.
    """
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= highest:
        raise info.error(root, f"{where} is {text!r}, not a number from 1 to {highest}")
    return int(text)
