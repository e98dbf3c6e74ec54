"""Formats of one header and samples to the end: AU, NIST SPHERE, IRCAM."""

import re
import struct

from .byte_source import ByteSource, beyond, count_of
from .contents import Contents

_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}
_AU_UNKNOWN = 0xFFFF_FFFF
_IRCAM_BYTES = {0x00001: 1, 0x10001: 1, 0x20001: 1, 0x00002: 2, 0x40003: 3, 0x40004: 4, 0x00004: 4}
_IRCAM_HEADER = 1024
_NIST_MAX_HEADER = 1 << 16


def examine_au(source: ByteSource) -> Contents:
    """Hold the size of the samples of a Sun/NeXT file against the file."""
    order = ">" if source.at(0, 4) == b".snd" else "<"
    fields = source.at(4, 20)
    if len(fields) < 20:
        return Contents(kind="AU", fault="truncated inside its header")
    start, stated, encoding, _, channels = struct.unpack(order + "5I", fields)
    if start > source.size or start < 24:
        return Contents(kind="AU", fault="damaged, its header states no place of the samples")
    there, frame = source.size - start, channels * _AU_BYTES.get(encoding, 0)
    to_the_end = ((8, b"\xff" * 4),)
    # A size beyond 4 GiB cannot be stated.
    if stated in (_AU_UNKNOWN, 0) or (stated < there and there > _AU_UNKNOWN):
        return Contents(kind="AU", patches=to_the_end if stated != _AU_UNKNOWN else ())
    return _compare("AU", source, start, stated, frame, to_the_end)


def examine_nist(source: ByteSource) -> Contents:
    """Hold the count of samples of a SPHERE file against the file."""
    first = re.match(rb"NIST_1A\n\s*(\d{1,6})\n", source.at(0, 32))
    if first is None or not 16 <= int(first[1]) <= min(_NIST_MAX_HEADER, source.size):
        return Contents(kind="NIST", fault="damaged, its header states no length of its own")
    start = int(first[1])
    header, end, padding = source.at(0, start).partition(b"\nend_head")
    lines = header.split(b"\n")[2:]
    if not end or not all(re.fullmatch(rb"\w+ -(i|r|s\d+) .*|;.*|\s*", line) for line in lines):
        return Contents(kind="NIST", fault="damaged, its header is not one of SPHERE")
    values = {
        name: int(value)
        for name, value in re.findall(rb"^(\w+) -i (\d{1,18})\s*$", header, re.MULTILINE)
    }
    coding = re.search(rb"^sample_coding -s\d+ (\S+)", header, re.MULTILINE)
    plain = coding is None or coding[1] in (b"pcm", b"alaw", b"ulaw", b"mu-law")
    frame = values.get(b"sample_n_bytes", 0) * values.get(b"channel_count", 1)
    count = values.get(b"sample_count")
    if (count is None or not frame) and padding.strip(b" \0\r\n"):
        # SoX leaves the count out where it cannot seek back; its padding is whole.
        return Contents(kind="NIST", fault="damaged, samples lie inside its header")
    if count is None or not frame or not plain:
        return Contents(kind="NIST")
    if count == 0 and source.size > start:
        return Contents(kind="NIST")
    return _compare("NIST", source, start, count * frame, frame, ())


def examine_ircam(source: ByteSource) -> Contents:
    """IRCAM states no length: only a last frame in pieces shows that some is gone."""
    fields = source.at(8, 8)
    if len(fields) < 8 or source.size < _IRCAM_HEADER:
        return Contents(kind="IRCAM", fault="truncated inside its header")
    channels, encoding = struct.unpack("<II", fields)
    if channels > 1024:
        channels, encoding = struct.unpack(">II", fields)
    frame = channels * _IRCAM_BYTES.get(encoding, 0)
    fault = None
    if frame and (source.size - _IRCAM_HEADER) % frame:
        fault = "truncated, it ends inside a sample"
    return Contents(kind="IRCAM", fault=fault)


def _compare(
    kind: str,
    source: ByteSource,
    start: int,
    stated: int,
    frame: int,
    to_the_end: tuple[tuple[int, bytes], ...],
) -> Contents:
    there = source.size - start
    if stated > there:
        return Contents(kind=kind, fault=count_of(there, stated))
    if not source.is_no_audio(start + stated, max(1, frame)):
        fault = beyond(stated, there - stated)
        return Contents(kind=kind, fault=fault, patches=to_the_end)
    return Contents(
        kind=kind,
        stated_samples=stated // frame if frame else None,
        patches=((start + stated, b""),) if stated < there else (),
    )
