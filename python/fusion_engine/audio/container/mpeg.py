"""MPEG audio (MP3, MP2): a row of frames, of which some files state the count."""

import struct
from typing import NamedTuple

from .byte_source import ByteSource
from .contents import Contents, Glance

# kbit/s by version (1; 2 and 2.5) and layer.
_V1 = {
    1: (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_V2_LOW = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_V2 = {1: (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256)}
_V2 |= {2: _V2_LOW, 3: _V2_LOW}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MAX_TAGS = 1_000
_MAX_FIRST_TAGS = 16
# Bytes of the first frames, whose bit rate stands for that of all.
_GLANCE = 1 << 16
# Frames whose samples the decoder may leave out where nothing says so: its own delay.
_DELAY_FRAMES = 2


class _Frame(NamedTuple):
    length: int
    samples: int
    # What does not change inside a stream: version, layer, rate.
    kind: tuple[int, int, int]


class _Summary(NamedTuple):
    # The frames that a Xing, Info or VBRI header states.
    frames: int | None
    # The samples of the encoder's delay and padding.
    gap: int | None
    # What a checksum covers is as it was written.
    sound: bool = True


def _decode(second: int, third: int) -> _Frame | None:
    """The frame whose second and third bytes these are; length 0 where it is free."""
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    rate = third >> 2 & 3
    if second & 0xE0 != 0xE0 or version == 1 or layer == 4 or rate == 3 or third >> 4 == 15:
        return None
    hertz = _RATES[version][rate]
    bits = 1_000 * (_V1 if version == 3 else _V2)[layer][third >> 4]
    padding = third >> 1 & 1
    samples = 384 if layer == 1 else 1_152 if layer == 2 or version == 3 else 576
    if layer == 1:
        length = (12 * bits // hertz + padding) * 4 if bits else 0
    else:
        length = samples // 8 * bits // hertz + padding if bits else 0
    return _Frame(length, samples, (version, layer, rate))


_FRAMES = {
    bytes((second, third)): frame
    for second in range(0xE0, 0x100)
    for third in range(256)
    if (frame := _decode(second, third)) is not None
}


def examine(source: ByteSource, start: int = 0) -> Contents:
    """Count the frames from ``start`` and hold a Xing, Info or VBRI header against them."""
    head = source.at(start, 3)
    # libsndfile takes any such header for MPEG audio.
    first = _FRAMES.get(head[1:]) if head[:1] == b"\xff" else None
    if first is None:
        return Contents(kind="")
    if first.length == 0:
        # Free format: the length of a frame is nowhere stated.
        return Contents(kind="MP3", sequential=True)
    summary = _summary(source, start, first)
    if summary is None:
        count, fault = _count(source, start, first)
        least = first.samples * max(0, count - _DELAY_FRAMES)
        return Contents(kind="MP3", least_samples=least, fault=fault, sequential=True)
    end = start + first.length
    count, fault = _count(source, end, first)
    least = first.samples * max(0, count - _DELAY_FRAMES)
    if summary.frames is not None and fault is None:
        if count < summary.frames:
            fault = f"truncated, {count} of the {summary.frames} frames that it states are there"
        elif count > summary.frames:
            fault = f"its header states {summary.frames} frames, but it has {count}"
    if summary.frames is None or not summary.sound:
        # The decoder would stop, or cut off, where damaged numbers say: it gets a tag to skip.
        size = min(end + zeros(source, end) - start - 10, (1 << 28) - 1)
        tag = b"ID3\4\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
        return Contents(
            kind="MP3",
            least_samples=least,
            fault=fault,
            patches=((start, tag),),
            sequential=True,
        )
    if fault is None and summary.gap is not None:
        return Contents(kind="MP3", stated_samples=max(0, count * first.samples - summary.gap))
    return Contents(kind="MP3", least_samples=least, fault=fault)


def glance(source: ByteSource, start: int) -> Glance | None:
    """The frames that the first one states, or else those that fit at the first ones' bit rate."""
    head = source.at(start, 4)
    first = _FRAMES.get(head[1:3]) if head[:1] == b"\xff" else None
    if first is None or len(head) < 4 or first.length == 0:
        return None
    version, _, rate = first.kind
    channels = 1 if head[3] >> 6 == 3 else 2
    summary = _summary(source, start, first)
    if summary is not None and summary.frames is not None:
        samples = max(0, summary.frames * first.samples - (summary.gap or 0))
        return Glance(samples / _RATES[version][rate], channels)
    fitting = (source.size - start) / _mean_length(source, start, first)
    return Glance(fitting * first.samples / _RATES[version][rate], channels, stated=False)


def _mean_length(source: ByteSource, start: int, first: _Frame) -> float:
    """The bytes of a frame among the first ones: their bit rate may vary."""
    window = source.at(start, _GLANCE)
    at = count = 0
    frame: _Frame | None = first
    while frame is not None and frame.kind == first.kind and frame.length:
        at, count = at + frame.length, count + 1
        frame = _FRAMES.get(window[at + 1 : at + 3]) if window[at : at + 1] == b"\xff" else None
    return at / count


def after_tags(source: ByteSource) -> int:
    """Where the tags end that a file starts with, if it does."""
    position = 0
    for _ in range(_MAX_FIRST_TAGS):
        head = source.at(position, 10)
        if head[:3] != b"ID3" or len(head) < 10:
            break
        position += id3_size(head)
    return position


def _count(source: ByteSource, position: int, first: _Frame) -> tuple[int, str | None]:
    """The frames from ``position``, and what is there that is neither frame nor tag."""
    count, tags, base, window = 0, 0, 0, b""
    kind, frames, size = first.kind, _FRAMES, source.size
    mono: bool | None = None
    while position < size:
        at = position - base
        if at < 0 or at + 16 > len(window):
            base, window, at = position, source.window(position), 0
        frame = frames.get(window[at + 1 : at + 3]) if window[at : at + 1] == b"\xff" else None
        if frame is not None and frame.kind == kind and frame.length:
            if position + frame.length > size:
                return count, "truncated inside its last frame"
            # The decoder stops where mono and stereo meet, without a word.
            alone = window[at + 3 : at + 4] >= b"\xc0"
            if mono not in (None, alone):
                return count, f"it changes between mono and stereo (byte {position})"
            mono = alone
            position += frame.length
            count += 1
            continue
        skip = _skip_tag(source, position)
        if skip and tags < _MAX_TAGS:
            position, tags = position + skip, tags + 1
            continue
        if size - position <= 4 and count:
            break
        return count, f"damaged, no MPEG frame where one should start (byte {position})"
    return count, None


def _summary(source: ByteSource, start: int, first: _Frame) -> _Summary | None:
    """What a Xing, Info or VBRI header in the first frame states; None if there is none."""
    head = source.at(start, min(first.length, 200))
    if len(head) < 64:
        return None
    mono = head[3] >> 6 == 3
    side = (17 if mono else 32) if first.kind[0] == 3 else (9 if mono else 17)
    # A frame with a checksum of its own has it before the side information.
    for at in (4 + side, 6 + side):
        if head[at : at + 4] in (b"Xing", b"Info") and len(head) >= at + 12:
            flags, frames = struct.unpack(">II", head[at + 4 : at + 12])
            sound, gap = _gap(source, start, at, flags)
            return _Summary(frames if flags & 1 and frames else None, gap, sound)
    if head[36:40] == b"VBRI":
        (frames,) = struct.unpack(">I", head[50:54])
        return _Summary(frames or None, None)
    return None


def _gap(source: ByteSource, start: int, at: int, flags: int) -> tuple[bool, int | None]:
    """LAME's extension of a Xing header: is its checksum right, and the samples to cut off."""
    end = at + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags >> 3 & 1) * 4
    data = source.at(start, end + 36)
    if len(data) < end + 36 or not data[end : end + 4].strip(b"\0"):
        return True, None
    packed = int.from_bytes(data[end + 21 : end + 24], "big")
    # FFmpeg's is over as many bytes as in MPEG-1 stereo, wherever it stands.
    whole = data[: end + 34] + bytes(2) + source.at(start + end + 36, max(0, 190 - end - 36))
    stored = int.from_bytes(data[end + 34 :], "big")
    sound = stored in (_crc16(data[: end + 34]), _crc16(whole[:190]))
    return sound, (packed >> 12) + (packed & 0xFFF)


def _crc16(data: bytes) -> int:
    """CRC-16 as in LAME's tag: polynomial 0x8005, the low bit first."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def _skip_tag(source: ByteSource, position: int) -> int:
    """The bytes of the tag or the zeros at ``position``, 0 if there is neither."""
    head = source.at(position, 32)
    rest = source.size - position
    if head[:3] == b"ID3" and len(head) >= 10:
        return min(rest, id3_size(head))
    if head[:3] == b"TAG" and rest >= 128:
        return 128 if head[3:4] != b"+" else 227
    if head[:8] == b"APETAGEX" and len(head) == 32:
        size, _, flags = struct.unpack("<III", head[12:24])
        # A header counts the items and the footer after it; a footer alone counts what is before.
        return min(rest, 32 + size) if flags >> 29 & 1 else 32
    if head[:11] == b"LYRICSBEGIN":
        end = source.at(position, min(rest, 1 << 20))
        found = max(end.find(b"LYRICS200"), end.find(b"LYRICSEND"))
        return found + 9 if found >= 0 else 0
    if head[:1] == b"\0":
        return zeros(source, position)
    return 0


def zeros(source: ByteSource, position: int) -> int:
    """The count of zero bytes at ``position``."""
    start = position
    while position < source.size:
        window = source.window(position)
        body = window.lstrip(b"\0")
        position += len(window) - len(body)
        if body or not window:
            break
    return position - start


def id3_size(head: bytes) -> int:
    """The bytes of an ID3v2 tag with this header of ten bytes, its footer included."""
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if head[5] & 0x10 else 0)
