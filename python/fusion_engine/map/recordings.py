"""The recordings behind the rows: their names, links to them from the page, their bytes."""

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from .._words import counted
from ..errors import FusionEngineError

EMBEDDED_MAX_BYTES = 32_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recordings:
    """The files of a table, each once.

    Args:
        paths: as the table has them, in the order of their first rows.
        files: the same, from the current folder.
        of_row: [n] int32, index into both.
    """

    paths: list[str]
    files: list[Path]
    of_row: NDArray[np.int32]

    @classmethod
    def of(cls, paths: Sequence[str], root: str | os.PathLike[str]) -> "Recordings":
        """The recordings of n rows; relative paths begin in ``root``."""
        unique = list(dict.fromkeys(paths))
        place = {path: number for number, path in enumerate(unique)}
        of_row = np.array([place[path] for path in paths], np.int32)
        return cls(paths=unique, files=[_file(path, Path(root)) for path in unique], of_row=of_row)

    def missing(self) -> int:
        """How many are not there."""
        return sum(not _is_file(file) for file in self.files)

    def links(self, page: str | os.PathLike[str]) -> dict[str, Any]:
        """Names, and links from ``page``, by folder: most of a path is that of its neighbours."""
        folders, hrefs = dict[str, int](), list[str]()
        of_file, names, odd = list[int](), list[str](), dict[str, str]()
        for number, (path, file) in enumerate(zip(self.paths, self.files, strict=True)):
            folder, slash, name = path.rpartition("/")
            if folder + slash not in folders:
                folders[folder + slash] = len(folders)
                hrefs.append(_link(file.parent, Path(page).parent))
            of_file.append(folders[folder + slash])
            names.append(name)
            # Bytes that are no text: the page cannot make the link out of the name.
            if file.name != name:
                odd[str(number)] = quote(os.fsencode(file.name), safe="")
        return {"folders": list(folders), "hrefs": hrefs, "folder": of_file, "name": names} | (
            {"odd": odd} if odd else {}
        )

    def embedded(self) -> dict[str, str]:
        """The bytes of those that are there, in base64 by their number.

        Raises:
            FusionEngineError: they are too many for a page.
        """
        there = {n: file for n, file in enumerate(self.files) if _is_file(file)}
        size = sum(file.stat().st_size for file in there.values())
        if size > EMBEDDED_MAX_BYTES:
            raise FusionEngineError(
                f"{counted(len(there), 'recording')} of {size / 1e6:.0f} MB are too much to embed "
                f"in a page, expected at most {EMBEDDED_MAX_BYTES / 1e6:.0f} MB; leave out "
                "--embed-audio: the page then plays the files where they are"
            )
        return {str(n): base64.b64encode(f.read_bytes()).decode() for n, f in there.items()}


def _file(path: str, root: Path) -> Path:
    """The file of a path of a table, which writes bytes that are no text as ``\\udc80``."""
    file = root / path
    if "\\udc" in path and not _is_file(file):
        return root / re.sub(r"\\udc([89a-f][0-9a-f])", lambda m: chr(0xDC00 + int(m[1], 16)), path)
    return file


def _is_file(file: Path) -> bool:
    return os.path.isfile(file)  # noqa: PTH113 - says no to a name that is too long, too


def _link(folder: Path, base: Path) -> str:
    relative = os.path.relpath(folder, base)
    # With a dot: a first folder with a colon would be a scheme.
    return f"./{quote(os.fsencode(relative), safe='/')}/"
