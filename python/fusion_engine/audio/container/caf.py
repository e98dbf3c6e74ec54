"""Apple Core Audio Format: chunks with sizes of 64 bits."""

import struct

from .byte_source import ByteSource, beyond, count_of, printable
from .chunks import MAX_CHUNKS
from .contents import Contents

_PLAIN = {b"lpcm", b"ulaw", b"alaw"}


def examine(source: ByteSource) -> Contents:
    """Hold the size of the samples against the file."""
    position, frame = 8, 0
    for _ in range(MAX_CHUNKS):
        header = source.at(position, 12)
        if len(header) < 12 or not printable(header[:4]):
            break
        name, size = struct.unpack(">4sq", header)
        start = position + 12
        if name == b"data":
            return _samples(source, start, size, frame)
        if size < 0:
            break
        if name == b"desc":
            fields = source.at(start, 32)
            if len(fields) == 32 and fields[8:12] in _PLAIN:
                (frame,) = struct.unpack(">I", fields[16:20])
        position = start + size
    return Contents(kind="CAF", fault="damaged, its chunks lead to no samples")


def _samples(source: ByteSource, start: int, size: int, frame: int) -> Contents:
    # The samples follow a count of edits.
    there = source.size - start
    to_the_end = ((start - 8, struct.pack(">q", there)),)
    if there < 4:
        return Contents(kind="CAF", fault=count_of(0, max(0, size - 4)))
    if size == -1:
        return Contents(kind="CAF", patches=to_the_end)
    if size < 4:
        states = "too small a size" if size >= 0 else "a negative size"
        fault = f"damaged, its header states {states} ({size})"
        return Contents(kind="CAF", fault=fault, patches=to_the_end)
    if size > there:
        return Contents(kind="CAF", fault=count_of(there - 4, size - 4), patches=to_the_end)
    end, chunks = start + size, 0
    while chunks < MAX_CHUNKS:
        header = source.at(end, 12)
        if len(header) < 12 or not printable(header[:4]):
            break
        (more,) = struct.unpack(">q", header[4:])
        if more < 0 or end + 12 + more > source.size:
            break
        end, chunks = end + 12 + more, chunks + 1
    if not source.is_no_audio(end, max(1, frame)):
        fault = beyond(size - 4, there - size)
        return Contents(kind="CAF", fault=fault, patches=to_the_end)
    return Contents(
        kind="CAF",
        stated_samples=(size - 4) // frame if frame else None,
        patches=((end, b""),) if end < source.size else (),
    )
