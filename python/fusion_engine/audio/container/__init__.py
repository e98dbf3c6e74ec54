"""Is an audio file all there? libsndfile reads what it finds and does not say that some is gone."""

import io
import struct

from .contents import Contents
from .patched import PatchedFile

__all__ = ["Contents", "PatchedFile", "examine"]

_UNKNOWN_SIZE = 0x7FFF_F000
_MAX_CHUNKS = 1_000
_MAX_OGG_PAGE = 27 + 255 + 255 * 255
_BYTE_ORDER = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">", b"FORM": ">"}
_SAMPLES_CHUNK = {b"WAVE": b"data", b"AIFF": b"SSND", b"AIFC": b"SSND"}


def examine(file: io.FileIO, size: int) -> Contents:
    """Look at an open file of ``size`` bytes; never raises for what is in it."""
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"OggS":
        return _check_ogg(file, size)
    if head[:4] in _BYTE_ORDER and head[8:] in _SAMPLES_CHUNK:
        return _check_chunks(file, head, size)
    return Contents(kind="")


def _check_chunks(file: io.FileIO, head: bytes, size: int) -> Contents:
    order, wanted = _BYTE_ORDER[head[:4]], _SAMPLES_CHUNK[head[8:]]
    kind = "WAV" if head[8:] == b"WAVE" else "AIFF"
    (total,) = struct.unpack(order + "I", head[4:8])
    position, announced_64 = 12, None
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            break
        name, announced = struct.unpack(order + "4sI", header)
        start = position + 8
        if name == b"ds64":
            sizes = file.read(16)
            announced_64 = struct.unpack("<QQ", sizes)[1] if len(sizes) == 16 else None
        if name == wanted:
            if announced == 0xFFFF_FFFF and announced_64 is not None:
                announced = announced_64
            elif announced >= _UNKNOWN_SIZE:
                break
            if announced == 0 and size > start and total in (0, start - 8):
                patch = struct.pack(order + "I", min(size - start, 0xFFFF_FFFF))
                return Contents(kind=kind, patches=((start - 4, patch),))
            if announced > size - start:
                return Contents(
                    kind=kind,
                    fault=f"truncated, {size - start} of the {announced} bytes of samples that "
                    "its header announces are there",
                )
            break
        position = start + announced + announced % 2
    return Contents(kind=kind)


def _check_ogg(file: io.FileIO, size: int) -> Contents:
    file.seek(max(0, size - _MAX_OGG_PAGE))
    tail = file.read(_MAX_OGG_PAGE)
    at = tail.rfind(b"OggS")
    page = tail[at:] if at >= 0 else b""
    if len(page) >= 27 and page[5] & 4:
        segments = page[27 : 27 + page[26]]
        if len(segments) == page[26] and 27 + len(segments) + sum(segments) <= len(page):
            return Contents(kind="OGG")
    return Contents(
        kind="OGG",
        fault="truncated, the OGG stream stops before its end-of-stream mark",
    )
