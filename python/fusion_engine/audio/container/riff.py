"""WAV: RIFF, RIFX (big-endian), and RF64 and BW64 with sizes of 64 bits."""

import struct

from .byte_source import ByteSource, beyond, count_of, printable
from .chunks import MAX_CHUNKS, Chunk, is_sound_list, tail, walk
from .contents import Contents

_PCM, _FLOAT, _ALAW, _ULAW, _MP3, _EXTENSIBLE = 1, 3, 6, 7, 0x55, 0xFFFE
PLAIN = (_PCM, _FLOAT, _ALAW, _ULAW)
ODD = "damaged, the bytes of a sample that its header states contradict each other"
_MAX_32, _MAX_31 = 0xFFFF_FFFF, 0x7FFF_FFFF
# What writers put that cannot seek back: FFmpeg and libsndfile; LAME and the Xiph decoders;
# `arecord` by version. SoX, eSpeak and MPlayer write 0x7FFFF000, SoX in whole frames.
_UNKNOWN_SOX = 0x7FFF_F000
_UNKNOWN = {_MAX_32, _MAX_31, 0x8000_0000, 0x7FFF_FF00, _UNKNOWN_SOX}


def examine(source: ByteSource) -> Contents:
    """Hold the sizes that a WAV states against the file."""
    magic = source.at(0, 4)
    order = ">" if magic == b"RIFX" else "<"
    kind = {b"RF64": "RF64", b"BW64": "BW64"}.get(magic, "WAV")
    patches = [(0, b"RF64")] if magic == b"BW64" else []
    (total,) = struct.unpack(order + "I", source.at(4, 4))
    frame, tag, ds64 = 0, 0, None
    odd = False
    for i, chunk in enumerate(walk(source, 12, order)):
        if i == MAX_CHUNKS or not printable(chunk.name):
            break
        if chunk.name == b"fmt " and not tag:
            frame, tag, odd = frame_format(source.at(chunk.start, min(chunk.size, 26)), order)
        elif chunk.name == b"ds64" and kind != "WAV":
            ds64 = chunk
        elif chunk.name in (b"LIST", b"INFO"):
            patches += _without(source, [chunk], order)
        elif chunk.name == b"data" and odd:
            return Contents(kind=kind, fault=ODD, patches=tuple(patches))
        elif chunk.name == b"data":
            return _Samples(source, order, total, frame, tag, ds64, chunk).contents(kind, patches)
    return Contents(
        kind=kind, fault="damaged, its chunks lead to no samples", patches=tuple(patches)
    )


def frame_format(fields: bytes, order: str) -> tuple[int, int, bool]:
    """Of a WAV's format: the bytes of a frame, the encoding's tag, whether the two contradict."""
    if len(fields) < 16:
        return 0, 0, False
    tag, channels, _, _, frame, bits = struct.unpack(order + "HHIIHH", fields[:16])
    if tag == _EXTENSIBLE and len(fields) == 26:
        (tag,) = struct.unpack(order + "H", fields[24:26])
    # Samples of 20 or 24 bits may lie in four bytes.
    widths = ((bits + 7) // 8 * channels, 4 * channels if bits <= 32 else 0)
    return frame, tag, tag in PLAIN and frame not in widths


def _without(source: ByteSource, found: list[Chunk], order: str) -> list[tuple[int, bytes]]:
    """Patches that keep libsndfile from reading the lists in ``found`` that are not sound."""
    return [
        (chunk.start - 8, b"JUNK")
        for chunk in found
        if chunk.name == b"INFO"
        or (chunk.name == b"LIST" and not is_sound_list(source, chunk, order))
    ]


class _Samples:
    """The ``data`` chunk of a WAV against the file."""

    def __init__(
        self,
        source: ByteSource,
        order: str,
        total: int,
        frame: int,
        tag: int,
        ds64: Chunk | None,
        data: Chunk,
    ) -> None:
        self.source, self.order, self.total = source, order, total
        self.frame, self.tag, self.ds64 = frame, tag, ds64
        self.start, self.field = data.start, data.size
        self.there = source.size - data.start

    def contents(self, kind: str, patches: list[tuple[int, bytes]]) -> Contents:
        stated = self._stated()
        if stated is None:
            return self._to_the_end(kind, patches)
        if stated > self.there:
            return Contents(
                kind=kind,
                fault=count_of(self.there, stated),
                patches=tuple(patches),
                sequential=self.tag == _MP3,
            )
        after = self._tail(stated)
        if after is None:
            if self.there > _MAX_32 and self.ds64 is None:
                return self._wrapped(kind, patches, stated)
            if self.field == 0 and self.ds64 is None:
                return self._to_the_end(kind, patches)
            fault = beyond(stated, self.there - stated)
            return self._to_the_end(kind, patches, fault)
        if any(chunk.name == b"data" for chunk in after):
            fault = "damaged, it has two chunks of samples"
            return Contents(
                kind=kind,
                fault=fault,
                patches=(*patches, (self.start + stated, b"")),
                sequential=self.tag == _MP3,
            )
        return self._whole(kind, patches, stated, after)

    def _stated(self) -> int | None:
        """The bytes of samples that the header states, None if it does not know."""
        if self.ds64 is not None and self.field == _MAX_32:
            sizes = self.source.at(self.ds64.start, 16)
            stated: int = struct.unpack("<QQ", sizes)[1] if len(sizes) == 16 else 0
            unknown = stated == 2**64 - 1 or (stated == 0 and self.there > 0)
            return None if unknown else stated
        frame = max(1, self.frame)
        known = self.field not in {*_UNKNOWN, _UNKNOWN_SOX // frame * frame}
        # The largest size of the whole file, less the header.
        full = self.total in (_MAX_32, _MAX_31) and self.field == self.total - (self.start - 8)
        return self.field if known and not full else None

    def _tail(self, stated: int) -> list[Chunk] | None:
        """The chunks after the samples; some writers leave out the byte that pads an odd size."""
        end = self.start + stated
        # A size of 0 is often one that was never written: only whole chunks prove it.
        frame = self.frame if stated else 1
        for position in (end + stated % 2, end) if stated % 2 else (end,):
            if (after := tail(self.source, position, self.order, frame)) is not None:
                return after
        return None

    def _whole(
        self, kind: str, patches: list[tuple[int, bytes]], stated: int, after: list[Chunk]
    ) -> Contents:
        end = self.start + stated
        clean = after[-1].end if after else end + stated % 2
        if clean < self.source.size:
            patches = [*patches, (clean, b"")]
        if stated % 2 and after and after[0].start - 8 == end:
            patches = [*patches, (end, b"")]
        patches = patches + _without(self.source, after, self.order)
        if self.ds64 is not None and self.field != _MAX_32:
            # libsndfile believes the other size.
            patches += [(self.ds64.start + 8, struct.pack("<Q", stated))]
        exact = self.tag in PLAIN and self.frame > 0
        return Contents(
            kind=kind,
            stated_samples=stated // self.frame if exact else None,
            patches=tuple(patches),
            sequential=self.tag == _MP3,
        )

    def _wrapped(self, kind: str, patches: list[tuple[int, bytes]], stated: int) -> Contents:
        """A size that is right but for a multiple of 4 GiB; in any case the samples go on."""
        wrapped = (self.there - stated) >> 32 << 32
        if wrapped and (after := self._tail(stated + wrapped)) is not None:
            end = self.start + stated + wrapped
            if after or end < self.source.size:
                patches = [*patches, (end, b"")]
        return self._to_the_end(kind, patches)

    def _to_the_end(
        self, kind: str, patches: list[tuple[int, bytes]], fault: str | None = None
    ) -> Contents:
        if self.ds64 is not None:
            patches = [*patches, (self.ds64.start + 8, struct.pack("<Q", self.there))]
            patches += [(self.start - 4, b"\xff" * 4)]
        elif self.field < self.there:
            # libsndfile reads a WAV with these sizes to its end, also beyond 4 GiB.
            patches = [*patches, (4, struct.pack(self.order + "I", 8)), (self.start - 4, bytes(4))]
        return Contents(kind=kind, fault=fault, patches=tuple(patches), sequential=self.tag == _MP3)
