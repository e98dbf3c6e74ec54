"""Is an audio file all there? libsndfile reads what it finds and does not say that some is gone."""

import io
import os
import struct
from typing import Any

from ..errors import AudioError

# Writers that cannot seek back announce one of a few sizes near 2 or 4 GiB: "until the end".
_UNKNOWN_SIZE = 0x7FFF_F000
# Of real files the samples' chunk is among the first dozen; a hostile file may have millions.
_MAX_CHUNKS = 1_000
_MAX_OGG_PAGE = 27 + 255 + 255 * 255
_BYTE_ORDER = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">", b"FORM": ">"}
_SAMPLES_CHUNK = {b"WAVE": b"data", b"AIFF": b"SSND", b"AIFC": b"SSND"}


class PatchedFile(io.FileIO):
    """A file of which some bytes read as others."""

    def __init__(self, path: str | os.PathLike[str], at: int, patch: bytes) -> None:
        super().__init__(os.fspath(path))
        self._at, self._patch = at, patch

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer`` and lay the patch over what was read."""
        start = self.tell()
        count = super().readinto(buffer) or 0
        view = memoryview(buffer).cast("B")
        for i, byte in enumerate(self._patch, self._at - start):
            if 0 <= i < count:
                view[i] = byte
        return count


def open_complete(path: str | os.PathLike[str]) -> io.FileIO:
    """Open an audio file whose container holds all that its header announces.

    WAV (also RF64) and AIFF are checked by the size of the samples' chunk, OGG by its
    end-of-stream mark; other containers are not checked here. A WAV whose writer was stopped or
    could not seek (size unknown, or 0 with samples behind it) is read to its end.

    Raises:
        AudioError: the file is truncated.
        OSError: it cannot be opened or read.
    """
    file = io.FileIO(os.fspath(path))
    try:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[:4] == b"OggS":
            _check_ogg(file, size, path)
        elif head[:4] in _BYTE_ORDER and head[8:] in _SAMPLES_CHUNK:
            patch = _check_chunks(file, head, size, path)
            if patch is not None:
                file.close()
                return PatchedFile(path, *patch)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _check_chunks(
    file: io.FileIO, head: bytes, size: int, path: str | os.PathLike[str]
) -> tuple[int, bytes] | None:
    """Check the chunk that holds the samples; the offset and bytes of its size, if it was 0."""
    order, wanted = _BYTE_ORDER[head[:4]], _SAMPLES_CHUNK[head[8:]]
    (total,) = struct.unpack(order + "I", head[4:8])
    position, announced_64 = 12, None
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            return None
        name, announced = struct.unpack(order + "4sI", header)
        start = position + 8
        if name == b"ds64":
            sizes = file.read(16)
            announced_64 = struct.unpack("<QQ", sizes)[1] if len(sizes) == 16 else None
        if name == wanted:
            if announced == 0xFFFF_FFFF and announced_64 is not None:
                announced = announced_64
            elif announced >= _UNKNOWN_SIZE:
                return None
            if announced == 0 and size > start and total in (0, start - 8):
                return start - 4, struct.pack(order + "I", min(size - start, 0xFFFF_FFFF))
            if announced > size - start:
                raise AudioError(
                    f"{os.fspath(path)}: truncated, {size - start} of the {announced} bytes of "
                    "samples that its header announces are there; copy or record it again"
                )
            return None
        position = start + announced + announced % 2
    return None


def _check_ogg(file: io.FileIO, size: int, path: str | os.PathLike[str]) -> None:
    """Check that the last page is whole and carries the end-of-stream mark (RFC 3533)."""
    file.seek(max(0, size - _MAX_OGG_PAGE))
    tail = file.read(_MAX_OGG_PAGE)
    at = tail.rfind(b"OggS")
    page = tail[at:] if at >= 0 else b""
    if len(page) >= 27 and page[5] & 4:
        segments = page[27 : 27 + page[26]]
        if len(segments) == page[26] and 27 + len(segments) + sum(segments) <= len(page):
            return
    raise AudioError(
        f"{os.fspath(path)}: truncated, the OGG stream stops before its end-of-stream mark; copy "
        "it again, or accept what is there with `ffmpeg -i IN.ogg OUT.wav`"
    )
