"""Ogg (RFC 3533): every page has a number and a checksum, the last one a mark."""

import struct
import zlib

from .byte_source import ByteSource
from .contents import Contents

_MARK = b"OggS"
_CONTINUED, _FIRST, _LAST = 1, 2, 4
_MAX_STREAMS = 64
_MAX_PAGES = 4_000_000
_NO_POSITION = 2**64 - 1
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_CODECS = (
    (b"\x01vorbis", "vorbis"),
    (b"OpusHead", "opus"),
    (b"\x7fFLAC", "flac"),
    (b"Speex   ", "speex"),
)


class _Stream:
    """One logical stream, as far as its pages were seen."""

    def __init__(self, first: bytes) -> None:
        self.codec = next((name for mark, name in _CODECS if first.startswith(mark)), "")
        self.head = first[:32]
        self.next, self.position, self.ended = 0, 0, False
        self.start: int | None = None
        self.packets = 0
        self.open = False

    def samples(self) -> int | None:
        """Samples per channel at libsndfile's rate; None where only a decoder can tell."""
        if self.codec == "opus" and len(self.head) >= 19 and self.start is not None:
            skip, rate = struct.unpack("<HI", self.head[10:16])
            # libsndfile decodes at the lowest rate that holds the original one.
            rates = (8_000, 12_000, 16_000, 24_000)
            factor: int = 48_000 // next((r for r in rates if rate <= r), 48_000)
            samples: int = max(0, self.position - skip - self.start) // factor
            return samples
        return None


def checksum(page: bytes) -> int:
    """Ogg's CRC-32 of a page whose own field is zero.

    The polynomial is zlib's with the bits in the other order, so zlib computes it over reversed
    bytes; it starts at zero and is not inverted.
    """
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int.from_bytes(crc.to_bytes(4, "little").translate(_REVERSED), "big")


def examine(source: ByteSource) -> Contents:
    """Check every page: mark, checksum, number, and the marks of first and last pages."""
    streams: dict[int, _Stream] = {}
    # The audio in the order of its beginnings: more than one is a chain.
    audio: list[_Stream] = []
    position, pages = 0, 0
    fault: str | None = None
    window, base = b"", 0
    while fault is None and position < source.size:
        if position - base + 65_307 > len(window):
            base, window = position, source.window(position)
        at = position - base
        head = window[at : at + 27]
        if head[:5] != _MARK + b"\0":
            if not source.is_no_audio(position, 1):
                fault = f"damaged, no Ogg page where one should start (byte {position})"
            break
        table = window[at + 27 : at + 27 + head[26]] if len(head) == 27 else b""
        length = 27 + len(table) + sum(table)
        page = window[at : at + length]
        if len(head) < 27 or len(table) < head[26] or len(page) < length:
            fault = "truncated inside its last Ogg page"
            break
        flags, granule, serial, number, crc = struct.unpack("<BQIII", head[5:26])
        if checksum(page[:22] + bytes(4) + page[26:]) != crc:
            fault = f"damaged, an Ogg page does not match its checksum (byte {position})"
            break
        fault = _add(streams, audio, page, len(table), flags, granule, serial, number)
        position += length
        pages += 1
        if pages > _MAX_PAGES:
            fault = "damaged, it has millions of Ogg pages"
    if fault is None and not audio:
        # No audio that is known here, or none at all: a decoder has to say.
        return Contents(kind="OGG")
    if fault is None and not all(stream.ended for stream in audio):
        fault = "truncated, the Ogg stream stops before its end-of-stream mark"
    flac = bool(audio) and audio[0].codec in ("flac", "speex")
    # libsndfile reads the first link of a chain only, and no FLAC.
    if flac or len(audio) > 1:
        return Contents(kind="OGG", fault=fault, decoder="ffmpeg")
    samples = audio[0].samples() if audio and fault is None else None
    return Contents(kind="OGG", stated_samples=samples, fault=fault)


def _add(
    streams: dict[int, _Stream],
    audio: list[_Stream],
    page: bytes,
    segments: int,
    flags: int,
    granule: int,
    serial: int,
    number: int,
) -> str | None:
    """Count a page; what is wrong with it, or None."""
    stream = streams.get(serial)
    if flags & _FIRST:
        if stream is not None and not stream.ended:
            return "damaged, an Ogg stream starts again before its end"
        if len(audio) >= _MAX_STREAMS or len(streams) >= _MAX_STREAMS:
            # A chain of many: only its shape is of interest.
            streams.clear()
            del audio[:-2]
        stream = streams[serial] = _Stream(page[27 + segments :])
        stream.next = number
        if stream.codec:
            audio.append(stream)
    if stream is None:
        return "damaged, an Ogg stream lacks its first page"
    if stream.ended:
        return "damaged, an Ogg stream goes on after its end"
    if number != stream.next:
        return f"damaged, Ogg pages are missing or repeated ({number} after {stream.next - 1})"
    stream.next = (number + 1) % 2**32
    if bool(flags & _CONTINUED) != stream.open and segments:
        return "damaged, an Ogg page does not continue the one before it"
    if segments:
        stream.open = page[26 + segments] == 255
    if stream.codec == "opus" and stream.start is None and granule not in (0, _NO_POSITION):
        stream.start = _opus_start(page, segments, flags, granule)
    if granule != _NO_POSITION:
        stream.position = granule
    stream.ended = bool(flags & _LAST)
    return None


def _opus_start(page: bytes, segments: int, flags: int, granule: int) -> int | None:
    """Where a stream of Opus begins: 0, or later where it was cut (RFC 7845, 4.3 and 4.4)."""
    position, samples, fresh = 27 + segments, 0, True
    for lace in page[27 : 27 + segments]:
        if fresh and lace:
            code = page[position]
            count = (1, 2, 2, page[position + 1] & 63 if lace > 1 else 0)[code & 3]
            samples += count * _opus_samples(code >> 3)
        fresh = lace < 255
        position += lace
    if flags & _LAST:
        return 0
    return max(0, granule - samples)


def _opus_samples(configuration: int) -> int:
    """Samples of a frame at 48 kHz (RFC 6716, table 2)."""
    if configuration < 12:
        return (480, 960, 1920, 2880)[configuration & 3]
    if configuration < 16:
        return (480, 960)[configuration & 1]
    return (120, 240, 480, 960)[configuration & 3]
