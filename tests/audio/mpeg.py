"""MP3 streams as encoders write them into a pipe: without the frame that states their length."""

import io
import struct

import soundfile

_BITRATES = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_RATES = (44_100, 48_000, 32_000)
FRAME = 1_152


def encoded(samples, rate, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="MP3", **options)
    return buffer.getvalue()


def frames(data):
    """The frames of an MPEG 1 layer III stream."""
    found, at = [], 0
    while at < len(data):
        assert data[at] == 0xFF
        assert data[at + 1] & 0xFE == 0xFA
        bits, rate = 1_000 * _BITRATES[data[at + 2] >> 4], _RATES[data[at + 2] >> 2 & 3]
        size = 144 * bits // rate + (data[at + 2] >> 1 & 1)
        found.append(data[at : at + size])
        at += size
    return found


def without_length(data):
    first, *rest = frames(data)
    assert b"Xing" in first or b"Info" in first
    return rest


def in_wav(stream, rate, channels, samples):
    """As MPEGLAYER3WAVEFORMAT."""
    fmt = struct.pack("<HHIIHHH", 0x55, channels, rate, 16_000, 1, 0, 12)
    fmt += struct.pack("<HIHHH", 1, 2, 417, 1, 1393)
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt
    chunks += b"fact" + struct.pack("<II", 4, samples)
    chunks += b"data" + struct.pack("<I", len(stream)) + stream + b"\0" * (len(stream) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
