"""Bytes of a file by position, and what may follow its samples."""

import io
import os

# Padding to a sector or a block; longer runs of zeros may be silence that is cut off.
_MAX_PADDING = 4096
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")
_WINDOW = 1 << 20


class ByteSource:
    """An open file, read by position in bounded pieces."""

    def __init__(self, file: io.FileIO, size: int) -> None:
        self._fd, self.size = file.fileno(), size
        self._start, self._window = 0, b""

    def at(self, position: int, count: int) -> bytes:
        """The ``count`` bytes at ``position``; fewer at the end of the file."""
        count = min(count, self.size - position)
        if count <= 0 or position < 0:
            return b""
        first = position - self._start
        if first < 0 or first + count > len(self._window):
            self._start, first = position, 0
            self._window = os.pread(self._fd, max(count, min(_WINDOW, 1 << 12)), position)
        return self._window[first : first + count]

    def window(self, position: int) -> bytes:
        """About a megabyte at ``position``."""
        return os.pread(self._fd, max(0, min(_WINDOW, self.size - position)), position)

    def find(self, what: bytes, start: int) -> int:
        """Where ``what`` next occurs, or -1."""
        while start + len(what) <= self.size:
            window = self.window(start)
            if len(window) < len(what):
                return -1
            found = window.find(what)
            if found >= 0:
                return start + found
            start += len(window) - len(what) + 1
        return -1

    def is_no_audio(self, position: int, frame: int) -> bool:
        """Whether what follows ``position`` is a tag, a little padding or a piece of one frame."""
        rest = self.size - position
        if rest < frame or rest <= 0:
            return True
        return self.at(position, 11).startswith(_TAGS) or (
            rest <= _MAX_PADDING and not self.at(position, rest).strip(b"\0")
        )


def printable(name: bytes) -> bool:
    """Whether a chunk's name is four printable ASCII characters."""
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)


def count_of(there: int, stated: int) -> str:
    """The sentence about a file that holds less than it states."""
    return f"truncated, {there} of the {stated} bytes of samples that its header states are there"


def beyond(stated: int, more: int) -> str:
    """The sentence about a file that holds more than it states."""
    return (
        f"its header states {stated} bytes of samples, but {more} bytes follow them that are no "
        "part of its container"
    )
