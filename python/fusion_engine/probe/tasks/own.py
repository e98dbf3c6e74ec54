"""Your own task, from a CSV or from a folder for each class."""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..._words import counted
from ...errors import DatasetError
from .base import SPLITS, Example, Split, Task
from .files import is_audio
from .splits import SplitWords, draw_stratified, is_split

_FORM = """\
file_name,label,split           or: file_name,label,fold     or: file_name,label
dogs/rex.wav,dog,train              dogs/rex.wav,dog,1           dogs/rex.wav,dog
cats/tom.wav,cat,valid              cats/tom.wav,cat,2           cats/tom.wav,cat
cats/kit.wav,cat,test               cats/kit.wav,cat,3           cats/kit.wav,cat"""
_TREE = """\
├── dog/                        a folder for each class,
│   ├── rex.wav                 with audio at any depth
│   └── …
└── cat/

or the same in train/, valid/ and test/"""
_VALID, _TEST = 0.15, 0.15


def read_csv(
    path: str | os.PathLike[str],
    *,
    audio: str | os.PathLike[str] | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> Task:
    """A task from a CSV with the columns ``file_name``, ``label`` and ``split`` or ``fold``.

    Other columns are ignored. ``split`` is ``train``, ``valid`` (or ``val``, ``validation``,
    ``dev``) or ``test`` (or ``eval``), in any case; ``fold`` is a whole number. Without either
    column 70, 15 and 15 % of each label's clips are drawn, which the notes say. The task's name is
    the file's, without suffix.

    Args:
        path: the CSV, UTF-8, with a header.
        audio: the folder to which ``file_name`` is relative; that of the CSV if not given.
        seconds: crop or pad clips to this length; ``None`` leaves them as they are.
        seed: of a split that is drawn.

    Raises:
        DatasetError: a missing file or column, or a value that is none of those; names the line.
        ValueError: ``seconds`` is not above 0.
    """
    _check_seconds(seconds)
    path = Path(path)
    if path.is_dir():
        raise _error(path, "is a folder; a folder for each class is `--folder`, `read_folders`")
    base = path.parent if audio is None else Path(audio)
    if not base.is_dir():
        raise _error(path, f"{base} is no folder, expected that of the audio")
    lines: dict[Path, int] = {}
    folders: dict[Path, set[str]] = {}
    words = SplitWords()
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
        fold, split = None, None
        if key == "fold":
            if not (value.isascii() and value.isdigit()):
                raise _error(path, f"line {line}: fold is {value!r}, expected a whole number")
            fold = int(value)
        elif key == "split":
            try:
                split = words.read(value)
            except ValueError as error:
                raise _error(path, f"line {line}: {error}") from None
        examples.append(Example(path=file, label=label, fold=fold, split=split))
    notes = [words.note] if words.note else []
    if all(example.fold is None and example.split is None for example in examples):
        examples, drawn = _draw(base, examples, seed)
        notes += drawn
    try:
        return _task(path.stem, seconds, examples, notes)
    except DatasetError as error:
        raise _error(path, str(error)) from None


def read_folders(
    root: str | os.PathLike[str], *, seconds: float | None = None, seed: int = 0
) -> Task:
    """A task from a folder for each class, with its audio at any depth inside.

    Where the folders of ``root`` are ``train``, ``valid`` and ``test`` (or what ``read_csv`` takes
    for them), the classes' are in these, and that is the split. Otherwise 70, 15 and 15 % of each
    class's clips are drawn, which the notes say. The task's name is the folder's.

    Args:
        root: the folder of the classes' folders.
        seconds: crop or pad clips to this length; ``None`` leaves them as they are.
        seed: of a split that is drawn.

    Raises:
        DatasetError: no folder, or no task in it: too few classes, or a split without clips.
        ValueError: ``seconds`` is not above 0.
    """
    _check_seconds(seconds)
    root = Path(root)
    others: list[str] = []
    notes = []
    top = _listing(root, root, others)
    words = SplitWords()
    parts: list[tuple[Path, Split | None]] = [(root, None)]
    if top and all(map(is_split, top)):
        try:
            parts = [(root / name, words.read(name)) for name in top]
        except ValueError as error:
            raise _folder_error(root, str(error)) from None
    examples = [
        Example(path=path, label=label, split=split)
        for part, split in parts
        for label in (top if split is None else _listing(root, part, others))
        for path in _audio_below(root, part / label, others)
    ]
    notes = [words.note] if words.note else []
    if examples and examples[0].split is None:
        examples, drawn = _draw(root, examples, seed)
        notes += drawn
    if others:
        notes.append(
            f"left out {counted(len(others), 'file')} in no class's folder or not audio, such "
            f"as {others[0]}"
        )
    try:
        return _task(root.resolve().name, seconds, examples, notes)
    except DatasetError as error:
        raise _folder_error(root, str(error)) from None


def _task(name: str, seconds: float | None, examples: list[Example], notes: list[str]) -> Task:
    return Task(
        name=name,
        title=name,
        seconds=seconds,
        classes=tuple(sorted({example.label for example in examples})),
        examples=tuple(examples),
        notes=tuple(notes),
    )


def _check_seconds(seconds: float | None) -> None:
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ValueError(f"seconds is {seconds:g}, expected a length above 0")


def _draw(base: Path, examples: list[Example], seed: int) -> tuple[list[Example], list[str]]:
    """The examples with a split, and what must be said of it."""
    # Below the folder, so that the split stays when all is moved.
    names = {e.path: Path(os.path.relpath(e.path, base)).as_posix() for e in examples}
    splits = draw_stratified({names[e.path]: e.label for e in examples}, _VALID, _TEST, seed)
    drawn = [replace(example, split=splits[names[example.path]]) for example in examples]
    counts = Counter(example.split for example in drawn)
    shares = " / ".join(str(counts[split]) for split in SPLITS)
    notes = [
        f"the split is drawn with seed {seed}, in each class alike: {shares} clips in train / "
        "valid / test; clips of one recording or person may be on both sides, which flatters every "
        "model: where they are, give a split or a fold for each"
    ]
    few = sorted(label for label, n in Counter(e.label for e in drawn).items() if n < len(SPLITS))
    if few:
        notes.append(
            f"{counted(len(few), 'label')} with fewer than three clips, too few for every "
            f"split, such as {few[0]}"
        )
    return drawn, notes


def _listing(root: Path, folder: Path, others: list[str]) -> list[str]:
    """The folders in ``folder``, sorted; its files go to ``others``."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise _folder_error(root, f"{folder} cannot be read ({error.strerror})") from error
    entries = [entry for entry in entries if not entry.name.startswith(".")]
    others += [str(entry) for entry in entries if not entry.is_dir()]
    return [entry.name for entry in entries if entry.is_dir()]


def _audio_below(root: Path, folder: Path, others: list[str]) -> list[Path]:
    """The audio files in ``folder``, at any depth."""

    def refuse(error: OSError) -> None:
        raise _folder_error(root, f"{error.filename} cannot be read ({error.strerror})") from error

    found = []
    seen: set[str] = set()
    for path, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(path)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            if is_audio(name):
                found.append(Path(path, name))
            else:
                others.append(str(Path(path, name)))
    return found


def _rows(path: Path) -> Iterator[tuple[int, str, str, str, str]]:
    """Line, file name, label, ``split``, ``fold`` or nothing, its value."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            keys = [name for name in header if name.lower() in ("split", "fold")]
            if not {"file_name", "label"} <= set(header) or len(keys) > 1:
                found = ", ".join(header) or "empty"
                raise _error(
                    path,
                    f"its header is {found}; expected file_name, label and split, fold or neither",
                )
            key = keys[0].lower() if keys else ""
            places = [header.index(name) for name in ("file_name", "label", *keys)]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise _error(
                        path,
                        f"line {reader.line_num}: {counted(len(row), 'value')}, expected "
                        f"{len(header)}",
                    )
                name, label, *value = (row[place].strip() for place in places)
                yield reader.line_num, name, label, key, "".join(value)
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


def _folder_error(root: Path, problem: str) -> DatasetError:
    return DatasetError(f"{root}: {problem}\nexpected folders like this:\n\n{_TREE}")
