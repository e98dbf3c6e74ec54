"""Files of which a part is missing or wrong."""

import io
import struct
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion_engine import AudioError
from fusion_engine.audio import load

from ..signals import noise, speech_like

FORMATS = [
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("WAV", "MS_ADPCM"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


@cache
def encoded(container, subtype, seconds=0.5, endian=None):
    rate = 16_000
    x = np.stack([noise(seconds, rate, 1), speech_like(seconds, rate, 2)], axis=1)
    file = io.BytesIO()
    soundfile.write(file, x, rate, format=container, subtype=subtype, endian=endian)
    return file.getvalue()


@pytest.mark.parametrize(("container", "subtype"), FORMATS)
def test_whole_files_load(tmp_path, container, subtype):
    (tmp_path / "x").write_bytes(encoded(container, subtype))
    reference, _ = soundfile.read(io.BytesIO(encoded(container, subtype)), dtype="float32")
    y = load(tmp_path / "x", 16_000).samples
    expected = reference.astype(np.float64).mean(axis=1).astype(np.float32)
    # libmpg123 rounds differently where its buffer is aligned differently.
    atol = np.finfo(np.float32).eps if container == "MP3" else 0
    np.testing.assert_allclose(y, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("container", "subtype"), FORMATS)
def test_truncated_files_are_errors(tmp_path, container, subtype):
    data = encoded(container, subtype)
    # An MP3 may lack its last frame: encoders do not agree on the length.
    least = 2_000 if container == "MP3" else 1
    cuts = np.unique(np.geomspace(least, len(data) - 1, 40).astype(int))
    for cut in cuts:
        (tmp_path / "cut").write_bytes(data[:-cut])
        with pytest.raises(
            AudioError, match=r"cut: (truncated|damaged|cannot be decoded|is empty|0 samp)"
        ):
            load(tmp_path / "cut", 16_000)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_that_stops_between_two_pages(tmp_path, subtype):
    data = encoded("OGG", subtype, 3.0)
    assert data.count(b"OggS") > 3
    (tmp_path / "cut.ogg").write_bytes(data[: data.rindex(b"OggS")])
    with pytest.raises(AudioError, match="truncated, the Ogg stream stops"):
        load(tmp_path / "cut.ogg", 16_000)


def test_truncated_big_endian_wav(tmp_path):
    data = encoded("WAV", "PCM_16", endian="BIG")
    assert data[:4] == b"RIFX"
    (tmp_path / "cut").write_bytes(data[:-2])
    with pytest.raises(AudioError, match="truncated, 31998 of the 32000 bytes"):
        load(tmp_path / "cut", 16_000)


def with_sizes(data, total, samples):
    """A WAV's bytes with other sizes in its header."""
    at = data.index(b"data") + 4
    data = data[:at] + struct.pack("<I", samples) + data[at + 4 :]
    return data if total is None else data[:4] + struct.pack("<I", total) + data[8:]


@pytest.mark.parametrize(
    ("total", "samples"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg into a pipe
        (0x7FFFF024, 0x7FFFF000),  # sox into a pipe
        (0x7FFFFFFF, 0x7FFFFFFF),
        (None, 0xFFFFFFFF),
        (0, 0),  # a recorder that was killed
        (36, 0),  # Python's wave module into a pipe
    ],
)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_wav_of_unknown_length(tmp_path, subtype, total, samples):
    data = encoded("WAV", subtype)
    (tmp_path / "whole.wav").write_bytes(data)
    (tmp_path / "stream.wav").write_bytes(with_sizes(data, total, samples))
    np.testing.assert_array_equal(
        load(tmp_path / "stream.wav", 44_100).samples, load(tmp_path / "whole.wav", 44_100).samples
    )


def test_no_samples_before_another_chunk(tmp_path):
    """A size of 0 is believed where the file goes on as it announces."""
    extra = b"LIST" + struct.pack("<I", 4) + b"INFO"
    data = with_sizes(encoded("WAV", "PCM_16"), None, 0)[:44] + extra
    (tmp_path / "x.wav").write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    with pytest.raises(AudioError, match="0 samples"):
        load(tmp_path / "x.wav", 16_000)


def test_chunks_before_and_after_the_samples(tmp_path):
    data = encoded("WAV", "PCM_16")
    odd = b"note" + struct.pack("<I", 5) + b"hello\0"
    (tmp_path / "x.wav").write_bytes(data[:36] + odd + data[36:] + odd)
    (tmp_path / "whole.wav").write_bytes(data)
    np.testing.assert_array_equal(
        load(tmp_path / "x.wav", 16_000).samples, load(tmp_path / "whole.wav", 16_000).samples
    )
    (tmp_path / "cut.wav").write_bytes((data[:36] + odd + data[36:])[:-100])
    with pytest.raises(AudioError, match="truncated"):
        load(tmp_path / "cut.wav", 16_000)


def test_flac_that_does_not_say_its_length(tmp_path):
    data = bytearray(encoded("FLAC", "PCM_16"))
    data[21] &= 0xF0  # the upper 4 of the 36 bits of STREAMINFO's total
    data[22:26] = bytes(4)
    (tmp_path / "x.flac").write_bytes(data)
    whole, _ = soundfile.read(io.BytesIO(encoded("FLAC", "PCM_16")), dtype="float32")
    assert np.array_equal(load(tmp_path / "x.flac", 16_000).samples, whole.mean(axis=1))


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.parametrize("container", ["WAV", "RF64", "AIFF", "FLAC", "OGG", "MP3"])
def test_corrupt_bytes(tmp_path, container, data):
    """Whatever the bytes are, the answer is samples or an AudioError."""
    blob = bytearray(encoded(container, dict(FORMATS[1:])[container], 0.1))
    header = st.integers(0, 63)
    anywhere = st.integers(0, len(blob) - 1)
    for _ in range(data.draw(st.integers(1, 6))):
        blob[data.draw(header | anywhere)] = data.draw(st.integers(0, 255))
    at = data.draw(anywhere)
    cut = data.draw(st.integers(0, 100))
    blob[at : at + cut] = data.draw(st.binary(max_size=100))
    (tmp_path / "x").write_bytes(blob)
    with suppress(AudioError):
        y = load(tmp_path / "x", 16_000).samples
        assert y.dtype == np.float32
        assert y.ndim == 1
        assert y.size > 0
        assert np.isfinite(y).all()


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    head=st.sampled_from(
        [b"RIFF\0\0\0\0WAVE", b"RF64\xff\xff\xff\xffWAVEds64", b"OggS\0\2", b"fLaC"]
    ),
    tail=st.binary(max_size=300),
)
def test_random_bytes_after_a_known_beginning(tmp_path, head, tail):
    (tmp_path / "x").write_bytes(head + tail)
    with pytest.raises(AudioError):
        load(tmp_path / "x", 16_000)
