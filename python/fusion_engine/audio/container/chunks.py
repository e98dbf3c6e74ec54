"""Files of named chunks, each with a size of 32 bits: RIFF (WAV) and IFF (AIFF, 8SVX)."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from .byte_source import ByteSource, printable

# Of real files the samples' chunk is among the first dozen; a hostile file may have millions.
MAX_CHUNKS = 1_000
_INFO = {b"labl", b"note", b"ltxt"}
# Chunks that writers put after the samples; one that is cut off costs no sample.
_METADATA = {
    *(b"LIST", b"INFO", b"id3 ", b"ID3 ", b"bext", b"iXML", b"axml", b"chna", b"cue ", b"smpl"),
    *(b"inst", b"fact", b"PEAK", b"acid", b"cart", b"DISP", b"JUNK", b"PAD ", b"FLLR", b"_PMX"),
    *(b"MARK", b"INST", b"COMT", b"ANNO", b"AUTH", b"NAME", b"(c) ", b"APPL", b"MIDI", b"COMM"),
    *(b"AESD", b"CHAN", b"afsp", b"AFAn", b"umid", b"minf", b"regn", b"ovwf", b"elm1"),
}


class Chunk(NamedTuple):
    """A chunk: its name, where its content starts, and the size that it states."""

    name: bytes
    start: int
    size: int

    @property
    def end(self) -> int:
        """Where the next chunk starts."""
        return self.start + self.size + self.size % 2


def walk(source: ByteSource, position: int, order: str) -> Iterator[Chunk]:
    """Headers of chunks from ``position``, the last perhaps longer than the file."""
    while True:
        header = source.at(position, 8)
        if len(header) < 8:
            return
        name, size = struct.unpack(order + "4sI", header)
        chunk = Chunk(name, position + 8, size)
        yield chunk
        position = chunk.end


def tail(source: ByteSource, position: int, order: str, frame: int) -> list[Chunk] | None:
    """The chunks that follow the samples, as far as they are whole; None: more than chunks."""
    found: list[Chunk] = []
    for chunk in walk(source, position, order):
        if len(found) == MAX_CHUNKS or not printable(chunk.name):
            break
        if chunk.start + chunk.size > source.size:
            return found if chunk.name in _METADATA else None
        found.append(chunk)
        position = chunk.end
    return found if source.is_no_audio(position, max(1, frame)) else None


def is_sound_list(source: ByteSource, chunk: Chunk, order: str) -> bool:
    """Whether libsndfile may read a LIST: its items fit exactly; others can make it hang."""
    if chunk.size < 12 or chunk.size > 1 << 20:
        return False
    if source.at(chunk.start, 4) not in (b"INFO", b"adtl"):
        return False
    end = chunk.start + chunk.size
    for items, item in enumerate(walk(source, chunk.start + 4, order)):
        known = item.name in _INFO or (item.name[:1] == b"I" and item.name.isalnum())
        if not known or item.name == b"INFO" or item.start + item.size > end:
            return False
        if item.size < 4 and item.name in _INFO:
            return False
        if item.end >= end:
            return True
        if items == MAX_CHUNKS:
            break
    return False
