"""FLAC (RFC 9639): what STREAMINFO states against the last frame."""

from .byte_source import ByteSource
from .contents import Contents

_MAX_BLOCKS = 10_000
# A frame is seldom larger; a last frame that is not found leaves the judgement to libFLAC.
_TAIL = 1 << 20
_INFO_SIZE = 34


def examine(source: ByteSource, start: int = 0) -> Contents:
    """Hold the count of samples against the number of the last frame; ``start``: of ``fLaC``."""
    info = source.at(start + 4, 4 + _INFO_SIZE)
    if len(info) < 4 + _INFO_SIZE or info[0] & 0x7F or info[1:4] != b"\0\0\x22":
        return Contents(kind="FLAC", fault="damaged, its first block does not describe it")
    fields = int.from_bytes(info[14:22], "big")
    total = fields & (2**36 - 1)
    fixed = int.from_bytes(info[4:6], "big")
    frames = _frames_start(source, start, info[0] >> 7)
    if frames is None:
        return Contents(kind="FLAC", fault="truncated inside its header")
    if frames >= source.size and total:
        return Contents(kind="FLAC", fault=f"truncated, none of its {total} samples are there")
    # Two files in one: the decoder stops at the end of the first.
    if source.find(b"fLaC\0\0\0\x22", frames) >= 0:
        return Contents(kind="FLAC", fault="damaged, a second FLAC stream follows the first")
    last, end = _last_frame(source, frames, fixed)
    if total:
        fault = None
        if last is not None and last != total:
            short = "truncated, " if last < total else ""
            fault = f"{short}its header states {total} samples, but its frames end at {last}"
        elif last is not None and not source.is_no_audio(end, 1):
            fault = "truncated or damaged, its last frame does not match its checksum"
        return Contents(kind="FLAC", stated_samples=total, fault=fault)
    if last is None:
        return Contents(kind="FLAC", sequential=True)
    # libsndfile reads no FLAC that does not say how long it is.
    value = (fields & ~(2**36 - 1)) | min(last, 2**36 - 1)
    return Contents(kind="FLAC", patches=((start + 18, value.to_bytes(8, "big")),))


def _frames_start(source: ByteSource, start: int, is_last: int) -> int | None:
    """Where the metadata ends."""
    position = start + 8 + _INFO_SIZE
    for _ in range(_MAX_BLOCKS):
        if is_last:
            return position if position <= source.size else None
        header = source.at(position, 4)
        if len(header) < 4:
            return None
        is_last = header[0] >> 7
        position += 4 + int.from_bytes(header[1:], "big")
    return None


def _last_frame(source: ByteSource, start: int, fixed: int) -> tuple[int | None, int]:
    """The sample after the last frame whose two checksums hold, and the byte after it."""
    first = max(start, source.size - _TAIL)
    tail = source.at(first, source.size - first)
    # Tags at the end, which are no part of FLAC but seen.
    if tail[-128:-125] == b"TAG":
        tail = tail[:-128]
    at, tries = len(tail), 0
    while (at := tail.rfind(b"\xff", 0, at)) >= 0 and tries < 5_000:
        if at + 1 < len(tail) and tail[at + 1] & 0xFE == 0xF8:
            tries += 1
            if (found := _header(tail[at : at + 16], fixed)) is not None:
                whole = _crc16(tail[at:]) == 0
                return found, first + (len(tail) if whole else at)
    return None, 0


def _header(data: bytes, fixed: int) -> int | None:
    """The sample after the frame that starts here; None: no frame starts here (RFC 9639, 9.1)."""
    if len(data) < 6 or data[2] >> 4 == 0 or data[2] & 15 == 15 or data[3] & 1:
        return None
    # A number of one to seven bytes, coded like UTF-8.
    lead, extra = data[4], 0
    if lead >= 0x80:
        extra = 8 - (~lead & 0xFF).bit_length() - 1
        if not 1 <= extra <= 6:
            return None
    number = lead & (0x7F if not extra else 0x3F >> extra)
    position = 5
    for byte in data[position : position + extra]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 63
    position += extra
    size, rate = data[2] >> 4, data[2] & 15
    if size in (6, 7):
        width = size - 5
        block = int.from_bytes(data[position : position + width], "big") + 1
        position += width
    else:
        block = 192 if size == 1 else 576 << (size - 2) if size < 6 else 256 << (size - 8)
    position += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if len(data) <= position or _crc8(data[:position]) != data[position]:
        return None
    return (number if data[1] & 1 else number * fixed) + block


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
    return crc


def _table(polynomial: int, bits: int) -> tuple[int, ...]:
    top, mask, table = 1 << (bits - 1), (1 << bits) - 1, []
    for byte in range(256):
        crc = byte << (bits - 8)
        for _ in range(8):
            crc = (crc << 1) & mask ^ (polynomial if crc & top else 0)
        table.append(crc)
    return tuple(table)


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)
