"""A file of which some bytes read as others."""

import io
import os
from collections.abc import Sequence
from typing import Any


class PatchedFile(io.FileIO):
    """A file of which some bytes read as others.

    Args:
        path: the file.
        patches: (offset, bytes) to read in place of the file's own; no bytes: the file ends there.
    """

    def __init__(
        self, path: str | os.PathLike[str], patches: Sequence[tuple[int, bytes]] = ()
    ) -> None:
        super().__init__(os.fspath(path))
        self._patches = tuple(patches)
        size = os.fstat(self.fileno()).st_size
        self._size = min([size, *(at for at, patch in patches if not patch)])

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer`` and lay the patches over what was read."""
        start = self.tell()
        view = memoryview(buffer).cast("B")[: max(0, self._size - start)]
        count = super().readinto(view) or 0
        for at, patch in self._patches:
            first, last = max(at, start), min(at + len(patch), start + count)
            if first < last:
                view[first - start : last - start] = patch[first - at : last - at]
        return count

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to ``size`` bytes, all of them if it is negative, with the patches laid over."""
        if size is None or size < 0:
            return self.readall()
        buffer = bytearray(min(size, max(0, self._size - self.tell())))
        return bytes(buffer[: self.readinto(buffer)])

    def readall(self) -> bytes:
        """Read to the end, with the patches laid over."""
        return self.read(max(0, self._size - self.tell()))

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to ``offset``; the end is that of the patched file."""
        if whence == os.SEEK_END:
            return super().seek(max(0, self._size + offset))
        return super().seek(offset, whence)
