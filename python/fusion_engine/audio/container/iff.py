"""AIFF, AIFC and 8SVX."""

import struct

from .byte_source import ByteSource, beyond, count_of, printable
from .chunks import MAX_CHUNKS, Chunk, tail, walk
from .contents import Contents

_UNKNOWN = {0, 0xFFFF_FFFF, 0x7FFF_FFFF}
# SoX, in whole frames, where it cannot seek back.
_UNKNOWN_SOX = 0x7F00_0000
_BYTES = {b"ulaw": 1, b"ULAW": 1, b"alaw": 1, b"ALAW": 1, b"fl32": 4, b"FL32": 4, b"fl64": 8}
_BYTES |= {b"FL64": 8, b"in24": 3, b"in32": 4, b"42ni": 3, b"23ni": 4}
_PLAIN = {b"NONE", b"sowt", b"twos", b"raw "}


def examine(source: ByteSource) -> Contents:
    """Hold the sizes that an AIFF or 8SVX states against the file."""
    form = source.at(8, 4)
    svx = form in (b"8SVX", b"16SV")
    kind = "SVX" if svx else "AIFF"
    frame, stated = 0, None
    # The chunk of the samples starts with two numbers of its own.
    wanted, skip = (b"BODY", 0) if svx else (b"SSND", 8)
    samples: Chunk | None = None
    for i, chunk in enumerate(walk(source, 12, ">")):
        if i == MAX_CHUNKS or not printable(chunk.name):
            break
        if chunk.name == b"COMM" and not svx:
            frame, stated = _format(source, chunk)
        elif chunk.name == wanted:
            samples = samples or chunk
            if svx or frame:
                break
    if samples is None:
        return Contents(kind=kind, fault="damaged, its chunks lead to no samples")
    there = source.size - samples.start
    if svx:
        frame = 1 if form == b"8SVX" else 2
    if there < skip:
        return Contents(kind=kind, fault=count_of(0, max(0, samples.size - skip)))
    unknown = samples.size in _UNKNOWN or (
        frame > 0 and samples.size == _UNKNOWN_SOX // frame * frame + skip
    )
    if samples.size == 0 and (after := tail(source, samples.start, ">", 1)) is not None:
        unknown = False
    to_the_end: list[tuple[int, bytes]] = []
    if samples.size < there:
        # libsndfile reads an AIFF with this size to its end, also beyond 4 GiB.
        size = b"\0\0\0\0" if not svx else struct.pack(">I", min(there, 0xFFFF_FFFF))
        to_the_end = [(samples.start - 4, size)]
    (offset,) = struct.unpack(">I", source.at(samples.start, 4)) if not svx else (0,)
    if unknown:
        room = max(0, there - skip - offset) // frame if frame else 0
        open_count = frame and stated == _UNKNOWN_SOX // frame
        if frame and stated not in (None, *_UNKNOWN) and not open_count and room < (stated or 0):
            short = f"truncated, {room} of the {stated} samples that its header states are there"
            return Contents(kind=kind, fault=short, patches=tuple(to_the_end))
        return Contents(kind=kind, patches=tuple(to_the_end))
    if samples.size > there:
        return Contents(kind=kind, fault=count_of(there - skip, samples.size - skip))
    after = tail(source, samples.end, ">", max(1, frame))
    if after is None:
        if there <= 0xFFFF_FFFF:
            fault = beyond(samples.size - skip, there - samples.size)
            return Contents(kind=kind, fault=fault, patches=tuple(to_the_end))
        wrapped = (there - samples.size) >> 32 << 32
        if wrapped and tail(source, samples.end + wrapped, ">", max(1, frame)) is not None:
            to_the_end += [(samples.start + samples.size + wrapped, b"")]
        return Contents(kind=kind, patches=tuple(to_the_end))
    clean = after[-1].end if after else samples.end
    patches = ((clean, b""),) if clean < source.size else ()
    if not frame:
        return Contents(kind=kind, patches=patches)
    held = max(0, samples.size - skip - offset) // frame
    differs = None
    if stated is not None and stated != held and stated not in _UNKNOWN:
        differs = (
            f"damaged, its header states {stated} samples and its chunk of samples holds {held}"
        )
    return Contents(kind=kind, stated_samples=held, fault=differs, patches=patches)


def _format(source: ByteSource, chunk: Chunk) -> tuple[int, int | None]:
    """The bytes of a frame, 0 if compressed, and the count of samples that the header states."""
    fields = source.at(chunk.start, min(chunk.size, 22))
    if len(fields) < 18:
        return 0, None
    channels, samples, bits = struct.unpack(">HIH", fields[:8])
    code = fields[18:22] or b"NONE"
    width = _BYTES.get(code, (bits + 7) // 8 if code in _PLAIN else 0)
    return channels * width, samples
