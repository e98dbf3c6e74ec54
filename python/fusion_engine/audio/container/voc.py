"""Creative Voice: blocks with sizes of 24 bits, ended by a zero."""

import struct

from .byte_source import ByteSource, beyond, count_of
from .contents import Contents

_MAX_BLOCKS = 100_000
_END, _SOUND, _CONTINUED, _EXTENDED_SOUND = 0, 1, 2, 9


def examine(source: ByteSource) -> Contents:
    """Walk the blocks; more than one of samples is more than libsndfile reads."""
    head = source.at(20, 2)
    if len(head) < 2:
        return Contents(kind="VOC", fault="truncated inside its header")
    (position,) = struct.unpack("<H", head)
    sounds, samples, ended = 0, 0, False
    for _ in range(_MAX_BLOCKS):
        block = source.at(position, 16)
        if not block:
            break
        if block[0] == _END:
            ended, position = True, position + 1
            break
        if len(block) < 4:
            return Contents(kind="VOC", fault="truncated inside a block")
        size = int.from_bytes(block[1:4], "little")
        there = source.size - position - 4
        if block[0] == _EXTENDED_SOUND and _is_of_sox(size, there):
            return Contents(kind="VOC")
        if size > there:
            return Contents(kind="VOC", fault=count_of(max(0, there), size))
        if block[0] > _EXTENDED_SOUND:
            fault = beyond(position, source.size - position)
            return Contents(kind="VOC", fault=fault)
        if block[0] in (_SOUND, _CONTINUED, _EXTENDED_SOUND):
            sounds += 1
            samples = _samples(block, size)
        position += 4 + size
    if ended and not source.is_no_audio(position, 1):
        return Contents(kind="VOC", fault=beyond(position, source.size - position))
    if sounds == 1 and ended:
        patches = ((position, b""),) if position < source.size else ()
        return Contents(kind="VOC", stated_samples=samples or None, patches=patches)
    # libsndfile reads the headers of further blocks as samples, and the last byte as the end.
    return Contents(kind="VOC", decoder="ffmpeg")


def _is_of_sox(size: int, there: int) -> bool:
    """Whether SoX wrote the size: it leaves out 8 bytes of the block's header, older ones half."""
    return size + 8 == there - 1 or size * 2 == there - 9


def _samples(block: bytes, size: int) -> int:
    """Samples per channel of an extended block of PCM with bits and channels of its own, or 0."""
    if block[0] != _EXTENDED_SOUND or len(block) < 16:
        return 0
    bits, channels = block[8], block[9]
    width = bits // 8 * channels
    return (size - 12) // width if width else 0
