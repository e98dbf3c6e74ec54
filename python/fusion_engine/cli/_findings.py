"""What a run of ``embed`` says at its end about its files."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from .._words import counted
from ..audio.folders import FFMPEG_SUFFIXES, Found, count_suffixes
from ..output import Row


class Files:
    """A number of files, and the first of them; rows of one file come one after the other."""

    def __init__(self) -> None:
        self.count = 0
        self.first = self._last = ""

    def add(self, path: str) -> None:
        if not self.count or path != self._last:
            self.count += 1
            self.first, self._last = self.first or path, path

    def __str__(self) -> str:
        return f"{counted(self.count, 'file')} (first: {self.first})"


class Findings:
    """Counts the files in the table that something is to be said about."""

    def __init__(self, *, mixed: bool) -> None:
        self._mixed = mixed
        self._flagged = {"silent": Files(), "clipped_scale": Files(), "partial": Files()}

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            for flag, files in self._flagged.items():
                if getattr(row, flag):
                    files.add(row.path)

    def warnings(self) -> Iterator[str]:
        """A line for each flag that was set."""
        silent, scale, partial = self._flagged.values()
        if silent.count:
            where = "after mixing the channels" if self._mixed else "in a channel"
            advice = "; --channel first takes one alone" if self._mixed else ""
            yield f"digital silence {where}: {silent}{advice}"
        if scale.count:
            yield (
                f"samples beyond 16, where full scale is 1: {scale}; integers saved as floats want "
                "dividing by their largest value (32768 for 16 bits)"
            )
        if partial.count:
            yield f"damaged or contradictory, embedded as far as it goes: {partial}"


def notes(found: Found) -> Iterator[str]:
    """What was not embedded, or once only."""
    for paths, noun, what in (
        (found.repeated_files, "file", "given more than once, embedded once"),
        (found.repeated_folders, "folder", "reached more than once, searched once"),
    ):
        if paths:
            yield f"{what}: {counted(len(paths), noun)} (first: {paths[0]})"
    if found.left_out:
        counts = count_suffixes(found.left_out)
        yield f"left out of {_folders(found.folders)}: {counts}{_hint(found)}"


def _folders(folders: list[Path]) -> str:
    return f"{folders[0]}/" if len(folders) == 1 else counted(len(folders), "folder")


def _hint(found: Found) -> str:
    readable = Counter({s: found.left_out[s] for s in FFMPEG_SUFFIXES if s in found.left_out})
    if not readable or shutil.which("ffmpeg"):
        return ""
    return f"; ffmpeg, which is not installed, would read {count_suffixes(readable)}"
