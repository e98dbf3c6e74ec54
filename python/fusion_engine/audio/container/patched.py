"""A file of which some bytes read as others."""

import io
import os
from collections.abc import Sequence
from typing import Any


class PatchedFile(io.FileIO):
    """A file of which some bytes read as others; its length stays.

    Args:
        path: the file.
        patches: (offset, bytes) to read in place of the file's own.
    """

    def __init__(
        self, path: str | os.PathLike[str], patches: Sequence[tuple[int, bytes]] = ()
    ) -> None:
        super().__init__(os.fspath(path))
        self._patches = tuple(patches)

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer`` and lay the patches over what was read."""
        start = self.tell()
        count = super().readinto(buffer) or 0
        view = memoryview(buffer).cast("B")
        for at, patch in self._patches:
            first, last = max(at, start), min(at + len(patch), start + count)
            if first < last:
                view[first - start : last - start] = patch[first - at : last - at]
        return count

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, all of them if it is negative, with the patches laid over."""
        if size is None or size < 0:
            return self.readall()
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])

    def readall(self) -> bytes:
        """Read to the end, with the patches laid over."""
        rest = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return self.read(rest)
