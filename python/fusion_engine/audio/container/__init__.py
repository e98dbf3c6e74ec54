"""Is an audio file all there? libsndfile reads what it finds and does not say that some is gone."""

import io

from . import caf, flac, headers, iff, mpeg, ogg, riff, voc, w64
from .byte_source import ByteSource
from .contents import Contents, Glance
from .glance import glance
from .patched import PatchedFile

__all__ = ["Contents", "Glance", "PatchedFile", "examine", "glance"]


def examine(file: io.FileIO, size: int) -> Contents:
    """What the container of an open file says of its samples, held against its bytes.

    Time and memory are bounded whatever the bytes; damage is an answer, never an error.

    Args:
        file: an open file; its position is not used and does not move.
        size: its bytes.

    Raises:
        OSError: it cannot be read.
    """
    source = ByteSource(file, size)
    head = source.at(0, 32)
    if head[:3] == b"ID3":
        return _tagged(source)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return riff.examine(source)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC", b"8SVX", b"16SV"):
        return iff.examine(source)
    if head[:4] == b"riff":
        return w64.examine(source)
    if head[:4] in (b".snd", b"dns."):
        return headers.examine_au(source)
    if head[:4] == b"caff":
        return caf.examine(source)
    if head[:4] == b"NIST":
        return headers.examine_nist(source)
    if head[:20] == b"Creative Voice File\x1a":
        return voc.examine(source)
    if head[:4] == b"OggS":
        return ogg.examine(source)
    if head[:4] == b"fLaC":
        return flac.examine(source)
    if _is_ircam(head):
        return headers.examine_ircam(source)
    return mpeg.examine(source)


def _tagged(source: ByteSource) -> Contents:
    """A file that starts with tags of MP3; FLAC may have them too."""
    position = mpeg.after_tags(source)
    if source.at(position, 4) == b"fLaC":
        return flac.examine(source, position)
    position += mpeg.zeros(source, position)
    return mpeg.examine(source, position)


def _is_ircam(head: bytes) -> bool:
    return (
        (head[:2] == b"\x64\xa3" and head[2] & 0xF8 == 0 and head[3] == 0)
        or (head[2:4] == b"\xa3\x64" and head[0] == 0 and head[1] & 0xF8 == 0)
        if len(head) >= 4
        else False
    )
