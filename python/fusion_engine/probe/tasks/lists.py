"""A user's lists: which clip is in which split, and which are left out."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from ..._words import counted
from ...errors import DatasetError
from .base import SPLITS, Example, ReadOptions, Split, TaskInfo
from .files import is_audio
from .splits import SplitWords

_FORM = """\
file_name,split
some/folder/clip_1.wav,train
some/folder/clip_2.wav,valid
some/folder/clip_3.wav,test"""


def apply_lists(
    info: TaskInfo,
    root: Path,
    examples: Iterable[Example],
    options: ReadOptions,
    *,
    drawn: str,
    unusable: Mapping[str, str] = MappingProxyType({}),
    absent: Iterable[str] = (),
) -> tuple[list[Example], list[str]]:
    """The examples with the user's lists applied, and notes of what was done.

    Args:
        info, root: the task, and its folder.
        examples: with a split that was drawn.
        options: with the lists, if there are any.
        drawn: the note on the split that was drawn, left out where a list takes its place.
        unusable: clips that are left out where no list says which, each with the reason.
        absent: clips that a split list may name although they are not there.

    Raises:
        DatasetError: a list that cannot be read, or that names what is not there or is doubtful.
    """
    by_path = {example.path.relative_to(root).as_posix(): example for example in examples}
    names = _Names(by_path)
    if options.exclude_list is None:
        gone = {path: why for clip, why in unusable.items() for path in names.find(clip)}
        notes = [f"left out {path}: {why}" for path, why in gone.items()]
    else:
        gone, notes = _excluded(options.exclude_list, names)
    splits = None
    if options.split_list is None:
        notes.append(drawn)
    else:
        splits, more = _listed(options.split_list, names, {_stem(name) for name in absent})
        notes += more
    kept = []
    for path, example in by_path.items():
        if path in gone:
            continue
        if splits is None:
            kept.append(example)
        elif path in splits:
            kept.append(replace(example, split=splits[path]))
    if splits is not None:
        unnamed = sorted(by_path.keys() - splits.keys() - gone.keys())
        if unnamed:
            notes.append(
                f"left out {counted(len(unnamed), 'clip')} that {options.split_list} does not "
                f"name, such as {unnamed[0]}"
            )
    if not kept:
        raise info.error(root, "the lists leave no clip")
    return kept, notes


def _excluded(path: Path, names: "_Names") -> tuple[dict[str, str], list[str]]:
    """The clips that an exclude list names, with the note on them."""
    gone: dict[str, str] = {}
    missing = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        clip = line.strip()
        if not clip or clip.startswith("#"):
            continue
        found = names.find(clip)
        if len(found) > 1:
            raise DatasetError(_doubt(f"{path}: line {number}", clip, found))
        gone.update(dict.fromkeys(found, str(path)))
        if not found:
            missing.append(clip)
    notes = [f"left out {counted(len(gone), 'clip')} that {path} names"]
    if missing:
        notes.append(
            f"{counted(len(missing), 'clip')} that {path} names "
            f"{'is' if len(missing) == 1 else 'are'} not in the data, such as {missing[0]}"
        )
    return gone, notes


def _listed(path: Path, names: "_Names", absent: set[str]) -> tuple[dict[str, Split], list[str]]:
    """The split of each clip that a split list names, and notes on it."""
    splits: dict[str, Split] = {}
    missing = []
    words = SplitWords()
    for line, clip, word in _rows(path):
        where = f"{path}: line {line}"
        try:
            split = words.read(word)
        except ValueError as error:
            raise _error(where, str(error)) from None
        found = names.find(clip)
        if len(found) > 1:
            raise DatasetError(_doubt(where, clip, found))
        if not found and _stem(clip) not in absent:
            missing.append(f"line {line}: {clip}")
        for one in found:
            if splits.setdefault(one, split) != split:
                raise _error(where, f"{clip} is in {splits[one]} already")
    if missing:
        more = f", and {len(missing) - 1} more that it names" if len(missing) > 1 else ""
        raise DatasetError(
            f"{path}: {missing[0]} is not in the data{more}; get them, or take them out of the list"
        )
    counts = Counter(splits.values())
    shares = " / ".join(str(counts[split]) for split in SPLITS)
    notes = [f"the split is that of {path}: {shares} clips in train / valid / test"]
    return splits, notes + ([f"{path}: {words.note}"] if words.note else [])


class _Names:
    """Finds clips by the ends of their paths, with audio suffixes or without.

    Lists name clips from the data set's root, from a folder above or below it, or by the name
    alone; whoever wrote them may have converted the audio to another format.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._full: dict[str, list[str]] = {}
        self._ends: dict[str, list[str]] = {}
        for path in paths:
            parts = _stem(path).split("/")
            self._full.setdefault("/".join(parts), []).append(path)
            for start in range(len(parts)):
                self._ends.setdefault("/".join(parts[start:]), []).append(path)

    def find(self, name: str) -> list[str]:
        """The paths that ``name`` may mean; none, one, or, in doubt, several."""
        parts = _stem(name).split("/")
        whole = "/".join(parts)
        if found := self._full.get(whole) or self._ends.get(whole):
            return found
        for start in range(1, len(parts)):
            if found := self._full.get("/".join(parts[start:])):
                return found
        return []


def _stem(name: str) -> str:
    """A path with forward slashes, and without an audio suffix."""
    name = name.replace("\\", "/").removeprefix("./").strip("/")
    # Not just any: `blues.00029` has none.
    return name.rpartition(".")[0] if is_audio(name) else name


def _rows(path: Path) -> Iterable[tuple[int, str, str]]:
    """Line, file name and split of each row."""
    try:
        reader = csv.reader(_text(path).splitlines(keepends=True))
        header = [name.strip() for name in next(reader, [])]
        if not {"file_name", "split"} <= set(header):
            found = ", ".join(header) or "empty"
            raise _error(f"{path}", f"its header is {found}; expected file_name and split")
        places = [header.index("file_name"), header.index("split")]
        for row in reader:
            if not row:
                continue
            if len(row) <= max(places):
                raise _error(
                    f"{path}: line {reader.line_num}",
                    f"{counted(len(row), 'value')}, expected {len(header)}",
                )
            clip, word = (row[place].strip() for place in places)
            yield reader.line_num, clip, word
    except csv.Error as error:
        raise _error(f"{path}", f"cannot be read ({error})") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}), expected a list") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: cannot be read ({error}), expected UTF-8 text") from error


def _doubt(where: str, clip: str, found: list[str]) -> str:
    return (
        f"{where}: {clip} may be {found[0]} or {found[1]}; name more of its folders, as below the "
        "data set's root"
    )


def _error(where: str, problem: str) -> DatasetError:
    return DatasetError(f"{where}: {problem}\nexpected a CSV like this:\n\n{_FORM}")
