"""Which files a list of files and folders means."""

import os
import shutil
import stat
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import AudioError
from .listing import Listed

# Of libsndfile's formats, by its names. Without those whose suffix says something else most often
# (.mat, .mpc, .raw) or whose samples are in a second file (.sd2).
_LIBSNDFILE = {
    "WAV": (".wav", ".wave", ".bwf"),
    "RF64": (".rf64",),
    "W64": (".w64",),
    "FLAC": (".flac",),
    "OGG": (".ogg", ".oga", ".opus"),
    "MP3": (".mp3", ".mp2", ".mp1"),
    "AIFF": (".aif", ".aiff", ".aifc"),
    "AU": (".au", ".snd"),
    "CAF": (".caf",),
    "NIST": (".sph", ".nist"),
    "IRCAM": (".ircam", ".sf"),
    "VOC": (".voc",),
    "SVX": (".svx", ".8svx", ".16sv", ".iff"),
    "AVR": (".avr",),
    "HTK": (".htk",),
    "PAF": (".paf", ".fap"),
    "PVF": (".pvf",),
    "SDS": (".sds",),
}
AUDIO_SUFFIXES = tuple(suffix for suffixes in _LIBSNDFILE.values() for suffix in suffixes)

# What ffmpeg reads besides, where it is installed: audio, and the containers it is often kept in.
FFMPEG_SUFFIXES = (
    *(".m4a", ".m4b", ".mp4", ".aac", ".webm", ".mka", ".wma", ".amr", ".awb", ".3gp"),
    *(".ac3", ".eac3", ".dts", ".ape", ".wv", ".tta", ".mpc", ".spx"),
)

# Kinds of files named in a message.
_SHOWN = 8


def audio_suffixes() -> tuple[str, ...]:
    """Suffixes, in lower case, of what the decoders of this machine read."""
    import soundfile

    formats = soundfile.available_formats()
    known = [suffix for name in _LIBSNDFILE if name in formats for suffix in _LIBSNDFILE[name]]
    return (*known, *(FFMPEG_SUFFIXES if shutil.which("ffmpeg") else ()))


@dataclass
class Found:
    """What ``find_audio`` or ``find_listed`` found.

    Attributes:
        paths: the files, in the order of the inputs, those of a folder sorted by path.
        failures: folders that cannot be listed or hold no audio, and why.
        left_out: how many files in folders are no audio by their suffix, by that in lower case.
        folders: the folders that were given.
        repeated_files: named or found once more, and left out there.
        repeated_folders: reached once more, and not searched again.
        real: the resolved paths of ``paths``.
        listed: of a list, the entry of each of ``paths``; else empty.
    """

    paths: list[Path] = field(default_factory=list)
    failures: list[tuple[Path, AudioError]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    folders: list[Path] = field(default_factory=list)
    repeated_files: list[Path] = field(default_factory=list)
    repeated_folders: list[Path] = field(default_factory=list)
    real: set[str] = field(default_factory=set)
    listed: list[Listed] = field(default_factory=list)


def find_audio(inputs: Iterable[str | os.PathLike[str]]) -> Found:
    """Files as they are given; of folders all audio files inside, recursively.

    Inside folders a file counts as audio by its suffix (``audio_suffixes``, in any case), and
    hidden files and folders are left out. Links to files and folders are followed. A file or
    folder that is reached in several ways, also by links, is taken once: a folder by its own path
    rather than by a link, else where it comes first. What does not exist is returned like a file,
    for ``load`` to report.
    """
    search = _Search()
    for path in map(Path, inputs):
        search.add(path)
    search.follow_links()
    return search.found()


def find_listed(listed: Iterable[Listed]) -> Found:
    """The entries of a list, in its order, those that mean the same once.

    Two entries mean the same where their files are one, also by links, and their parts are equal.
    A folder is a failure. What does not exist is returned like a file, for ``load`` to report.
    """
    found, folders = Found(), dict[Path, str]()
    seen = set[tuple[str, float, float | None]]()
    for entry in listed:
        path, start, end, line = entry
        parent = path.parent
        if parent not in folders:
            folders[parent] = os.path.realpath(parent)
        mode = _mode(path)
        link = stat.S_ISLNK(mode)
        if stat.S_ISDIR(mode) or (link and path.is_dir()):
            error = f"{path}: is a folder (line {line} of the list), expected an audio file; list "
            found.failures.append((path, AudioError(f"{error}the files in it")))
            continue
        real = os.path.realpath(path) if link else f"{folders[parent].rstrip('/')}/{path.name}"
        meaning = (real, start or 0.0, end)
        if meaning in seen:
            found.repeated_files.append(path)
            continue
        seen.add(meaning)
        found.real.add(real)
        found.paths.append(path)
        found.listed.append(entry)
    return found


def count_suffixes(left_out: Counter[str]) -> str:
    """Such as ``12 .txt, 3 .jpg``: the most frequent ones first."""
    shown = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count} {suffix or 'without a suffix'}" for suffix, count in shown[:_SHOWN]]
    rest = sum(count for _, count in shown[_SHOWN:])
    return ", ".join([*parts, *([f"{rest} others"] if rest else [])])


class _File(NamedTuple):
    path: Path
    real: str  # the same for all paths to it


@dataclass
class _Input:
    """A file or folder that was given, and what it means."""

    path: Path
    folder: bool
    files: list[_File] = field(default_factory=list)
    failures: list[tuple[Path, AudioError]] = field(default_factory=list)
    repeated: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def fail(self, path: Path, reason: str) -> None:
        self.failures.append((path, AudioError(f"{path}: {reason}")))


class _Search:
    """The folders seen so far, and the links to folders that are still to be followed."""

    def __init__(self) -> None:
        self._inputs: list[_Input] = []
        self._links = deque[tuple[_Input, Path]]()
        self._seen = set[tuple[int, int]]()
        self._suffixes = audio_suffixes()

    def add(self, path: Path) -> None:
        given = _Input(path, _is_dir(path))
        self._inputs.append(given)
        if given.folder:
            self._walk(given, path)
        else:
            given.files.append(_File(path, os.path.realpath(path)))

    def follow_links(self) -> None:
        """After all folders, which so keep their own names where a link to them comes first."""
        while self._links:
            self._walk(*self._links.popleft())

    def _walk(self, given: _Input, top: Path) -> None:
        folders = [top]
        while folders:
            folder = folders.pop()
            try:
                info = folder.stat()
                if (info.st_dev, info.st_ino) in self._seen:
                    given.repeated.append(folder)
                    continue
                self._seen.add((info.st_dev, info.st_ino))
                folders += self._list(given, folder)
            except OSError as error:
                given.fail(folder, f"{error.strerror}, expected a folder that may be read")

    def _list(self, given: _Input, folder: Path) -> list[Path]:
        """Take what is in ``folder``; gives the folders in it."""
        inside: list[Path] = []
        real = os.path.realpath(folder)
        # The kind of an entry comes with the listing: only links are looked at one by one.
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                path = folder / entry.name
                if _is_dir(entry):
                    if entry.is_symlink():
                        self._links.append((given, path))
                    else:
                        inside.append(path)
                elif entry.name.lower().endswith(self._suffixes):
                    link = entry.is_symlink()
                    name = os.path.realpath(path) if link else f"{real}/{entry.name}"
                    given.files.append(_File(path, name))
                else:
                    given.left_out[path.suffix.lower()] += 1
        return inside[::-1]  # for a stack

    def found(self) -> Found:
        """The files in order, each once, and the folders that gave none."""
        found = Found()
        for given in self._inputs:
            if given.folder:
                found.folders.append(given.path)
                if not given.files and not given.failures and not given.repeated:
                    given.fail(given.path, _without_audio(given.left_out))
            for file in sorted(given.files):
                if file.real in found.real:
                    found.repeated_files.append(file.path)
                else:
                    found.real.add(file.real)
                    found.paths.append(file.path)
            found.failures += sorted(given.failures, key=lambda failure: failure[0])
            found.repeated_folders += given.repeated
            found.left_out += given.left_out
        return found


def _mode(path: Path) -> int:
    """Of the entry itself, not of what it links to; 0 where there is none."""
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0  # `load` will report it


def _is_dir(entry: "Path | os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # `load` will report it


def _without_audio(left_out: Counter[str]) -> str:
    there = f" but {count_suffixes(left_out)}" if left_out else ""
    return f"no audio in this folder{there}, expected files such as .wav, .flac, .ogg and .mp3"
