"""How long a recording is, by its header alone: what nobody checks, and costs a few kilobytes."""

import io
import math
import re
import struct
from itertools import islice

from . import caf, headers, iff, mpeg, riff, w64
from .byte_source import ByteSource, printable
from .chunks import MAX_CHUNKS, walk
from .contents import Glance

# An Ogg page is no longer; the last one is looked for in twice as much.
_PAGE = 65_307
_NO_POSITION = b"\xff" * 8
# Zeros between the tags and the first frame of an MP3.
_ZEROS = 1 << 16


def glance(file: io.FileIO, size: int) -> Glance | None:
    """Length and channels of an open file by its header; None if this does not read it there.

    A few kilobytes are read of most files, and a few megabytes at most whatever their bytes.

    Args:
        file: an open file; its position is not used and does not move.
        size: its bytes.

    Raises:
        OSError: it cannot be read.
    """
    try:
        seen = _read(ByteSource(file, size))
    except (ArithmeticError, IndexError, struct.error):
        return None  # a header that is cut off or damaged
    sound = seen is not None and math.isfinite(seen.seconds) and seen.seconds >= 0
    return seen if sound and seen is not None and seen.channels >= 1 else None


def _read(source: ByteSource) -> Glance | None:
    start = mpeg.after_tags(source)
    head = source.at(start, 32)
    if head[:4] == b"fLaC":
        return _flac(source.at(start + 8, 34))
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _wav(source, ">" if head[:4] == b"RIFX" else "<")
    if head[:4] == b"OggS":
        return _ogg(source)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(source)
    if head[:4] == b"riff":
        return _w64(source)
    if head[:4] in (b".snd", b"dns."):
        return _au(source, ">" if head[:4] == b".snd" else "<")
    if head[:4] == b"caff":
        return _caf(source)
    if head[:4] == b"NIST":
        return _nist(source)
    window = source.at(start, _ZEROS) if head[:1] == b"\0" else b""
    return mpeg.glance(source, start + len(window) - len(window.lstrip(b"\0")))


def _stated(samples: int | None, rate: float, channels: int) -> Glance | None:
    return Glance(samples / rate, channels) if samples is not None else None


def _flac(info: bytes) -> Glance | None:
    # Of 64 bits: 20 are the rate, 3 the channels less one, 5 the width, 36 the samples.
    (fields,) = struct.unpack(">Q", info[10:18])
    samples = fields & (2**36 - 1)
    return _stated(samples or None, fields >> 44, (fields >> 41 & 7) + 1)


def _wav(source: ByteSource, order: str) -> Glance | None:
    channels, per_second = 0, 0
    for chunk in islice(walk(source, 12, order), MAX_CHUNKS):
        if chunk.name == b"fmt ":
            fields = source.at(chunk.start, min(chunk.size, 26))
            frame, tag, _ = riff.frame_format(fields, order)
            _, channels, rate, per_second = struct.unpack(order + "HHII", fields[:12])
            if tag in riff.PLAIN:
                per_second = rate * frame
        elif chunk.name == b"data":
            there = source.size - chunk.start
            # A size that was never written, and one that lacks a multiple of 4 GiB.
            size = min(chunk.size or there, there)
            size += (there - size) >> 32 << 32
            return Glance(size / per_second, channels)
        elif not printable(chunk.name):
            break
    return None


def _ogg(source: ByteSource) -> Glance | None:
    """The rate of the first page's codec, and the position of its stream's last page."""
    first = source.at(0, 27 + 255 + 80)
    packet, serial = first[27 + first[26] :], first[14:18]
    skip = 0
    if packet[:7] == b"\x01vorbis":
        channels, rate = struct.unpack("<BI", packet[11:16])
    elif packet[:8] == b"OpusHead":
        channels, skip = struct.unpack("<BH", packet[9:12])
        rate = 48_000
    elif packet[:5] == b"\x7fFLAC":
        (fields,) = struct.unpack(">Q", packet[27:35])
        channels, rate = (fields >> 41 & 7) + 1, fields >> 44
    elif packet[:8] == b"Speex   ":
        rate, _, _, channels = struct.unpack("<4I", packet[36:52])
    else:
        return None
    start = max(0, source.size - 2 * _PAGE)
    tail = source.at(start, source.size - start)
    at = len(tail)
    while (at := tail.rfind(b"OggS\0", 0, at)) >= 0:
        position = tail[at + 6 : at + 14]
        if tail[at + 14 : at + 18] == serial and position != _NO_POSITION:
            return _stated(max(0, int.from_bytes(position, "little") - skip), rate, channels)
    return None


def _aiff(source: ByteSource) -> Glance | None:
    for chunk in islice(walk(source, 12, ">"), MAX_CHUNKS):
        if chunk.name == b"COMM":
            channels, exponent, mantissa = struct.unpack(">H6xHQ", source.at(chunk.start, 18))
            rate = math.ldexp(mantissa, exponent - 16_383 - 63)
            return _stated(iff.examine(source).stated_samples, rate, channels)
        if not printable(chunk.name):
            break
    return None


def _w64(source: ByteSource) -> Glance | None:
    # The format is the first chunk of all writers.
    if source.at(40, 4) != b"fmt ":
        return None
    channels, rate = struct.unpack("<2xHI", source.at(64, 8))
    return _stated(w64.examine(source).stated_samples, rate, channels)


def _au(source: ByteSource, order: str) -> Glance | None:
    rate, channels = struct.unpack(order + "II", source.at(16, 8))
    return _stated(headers.examine_au(source).stated_samples, rate, channels)


def _caf(source: ByteSource) -> Glance | None:
    # The description is the first chunk.
    (rate,) = struct.unpack(">d", source.at(20, 8))
    (channels,) = struct.unpack(">I", source.at(44, 4))
    return _stated(caf.examine(source).stated_samples, rate, channels)


def _nist(source: ByteSource) -> Glance | None:
    fields = dict(re.findall(rb"^(\w+) -i (\d{1,9})\s*$", source.at(0, 1024), re.MULTILINE))
    rate, channels = int(fields.get(b"sample_rate", 0)), int(fields.get(b"channel_count", 1))
    return _stated(headers.examine_nist(source).stated_samples, rate, channels)
