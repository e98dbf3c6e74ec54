"""Sony Wave64: chunks named by 16 bytes, with sizes of 64 bits that count their headers."""

import struct

from .byte_source import ByteSource, beyond, count_of
from .chunks import MAX_CHUNKS
from .contents import Contents
from .riff import ODD, PLAIN, frame_format

_GUID = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_UNKNOWN = {2**64 - 1, 2**63 - 1, 0}
_HEADER = 24


def examine(source: ByteSource) -> Contents:
    """Hold the size of the samples against the file."""
    position, frame, exact = 40, 0, False
    for _ in range(MAX_CHUNKS):
        header = source.at(position, _HEADER)
        if len(header) < _HEADER:
            break
        (size,) = struct.unpack("<Q", header[16:])
        if header[:16] == b"data" + _GUID:
            return _samples(source, position + _HEADER, size, frame, exact)
        if size < _HEADER:
            break
        if header[:16] == b"fmt " + _GUID:
            fields = source.at(position + _HEADER, 26)
            if len(fields) == 26:
                frame, tag, odd = frame_format(fields, "<")
                exact = tag in PLAIN and frame > 0
                if odd:
                    return Contents(kind="W64", fault=ODD)
        position += (size + 7) // 8 * 8
    return Contents(kind="W64", fault="damaged, its chunks lead to no samples")


def _samples(source: ByteSource, start: int, size: int, frame: int, exact: bool) -> Contents:
    there = source.size - start
    to_the_end = ((start - 8, struct.pack("<Q", there + _HEADER)),)
    if size in _UNKNOWN:
        return Contents(kind="W64", patches=to_the_end)
    stated = size - _HEADER
    if stated < 0:
        fault = "damaged, its samples' size is less than that of their header"
        return Contents(kind="W64", fault=fault, patches=to_the_end)
    if stated > there:
        return Contents(kind="W64", fault=count_of(there, stated), patches=to_the_end)
    end, chunks = start + (stated + 7) // 8 * 8, 0
    while chunks < MAX_CHUNKS:
        header = source.at(end, _HEADER)
        if len(header) < _HEADER:
            break
        (more,) = struct.unpack("<Q", header[16:])
        if more < _HEADER or end + more > source.size:
            break
        end, chunks = end + (more + 7) // 8 * 8, chunks + 1
    if not source.is_no_audio(end, max(1, frame)):
        fault = beyond(stated, there - stated)
        return Contents(kind="W64", fault=fault, patches=to_the_end)
    return Contents(
        kind="W64",
        stated_samples=stated // frame if exact else None,
        patches=((end, b""),) if end < source.size else (),
    )
