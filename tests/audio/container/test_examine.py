"""What a container states against what was written, for every family."""

import io
import struct

import numpy as np
import pytest
import soundfile

from fusion_engine.audio.container import PatchedFile, examine

RATE, FRAMES = 16_000, 4_000
PLAIN = ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC"]
STATED = ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "NIST"]
SAMPLES = np.random.default_rng(1).uniform(-0.5, 0.5, FRAMES)


def encoded(kind, subtype="PCM_16", samples=SAMPLES):
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=kind, subtype=subtype)
    return file.getvalue()


def looked_at(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with io.FileIO(tmp_path / "x") as file:
        return examine(file, len(data))


def decoded(tmp_path, data):
    contents = looked_at(tmp_path, data)
    assert contents.fault is None
    with PatchedFile(tmp_path / "x", contents.patches) as file:
        return soundfile.read(file)[0]


def wav(data_size, samples, riff=None, after=b"", before=b"", tag=1):
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, tag, 1, RATE, 2 * RATE, 2, 16)
    body = b"WAVE" + fmt + before + b"data" + struct.pack("<I", data_size) + samples + after
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


PCM = (SAMPLES * 32_767).astype("<i2").tobytes()


@pytest.mark.parametrize("kind", PLAIN)
def test_whole_files_state_what_was_written(tmp_path, kind):
    contents = looked_at(tmp_path, encoded(kind))
    assert (contents.kind, contents.stated_samples, contents.fault) == (kind, FRAMES, None)
    assert len(decoded(tmp_path, encoded(kind))) == FRAMES


@pytest.mark.parametrize("kind", [*STATED, "VOC"])
@pytest.mark.parametrize("cut", [1, 2, 500, 5_000])
def test_less_than_stated(tmp_path, kind, cut):
    samples = np.stack([SAMPLES, SAMPLES], 1) if kind == "VOC" else SAMPLES
    data = encoded(kind, samples=samples)
    assert looked_at(tmp_path, data).fault is None
    if kind != "VOC" or cut > 1:
        end = len(data) - (0 if kind != "VOC" else 1)
        assert "truncated" in looked_at(tmp_path, data[: end - cut]).fault


@pytest.mark.parametrize("kind", STATED)
def test_more_than_stated(tmp_path, kind):
    assert "follow" in looked_at(tmp_path, encoded(kind) + PCM).fault


def test_a_third_of_the_samples_stated(tmp_path):
    contents = looked_at(tmp_path, wav(len(PCM) // 3 // 2 * 2, PCM))
    assert "its header states" in contents.fault


@pytest.mark.parametrize(
    "size", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x8000_0000, 0x7FFF_FF00, 0x7FFF_F000, 0]
)
@pytest.mark.parametrize("riff", [None, 0, 0xFFFF_FFFF])
def test_sizes_that_mean_unknown(tmp_path, size, riff):
    assert len(decoded(tmp_path, wav(size, PCM, riff))) == FRAMES


@pytest.mark.parametrize("size", [3_000_000_000, 0x7FFF_F100, 0xFFFF_FFF0])
def test_other_large_sizes_are_stated(tmp_path, size):
    assert "truncated" in looked_at(tmp_path, wav(size, PCM)).fault


@pytest.mark.parametrize(
    "after",
    [
        b"LIST" + struct.pack("<I4s4sI", 16, b"INFO", b"ISFT", 4) + b"abc\0",
        b"ID3\3\0\0\0\0\0\5hello",
        bytes(512),
        b"LIST\xff\0\0\0INFO",
    ],
)
def test_what_may_follow_the_samples(tmp_path, after):
    assert np.array_equal(
        decoded(tmp_path, wav(len(PCM), PCM, after=after)), decoded(tmp_path, wav(len(PCM), PCM))
    )


def test_a_size_that_wrapped(tmp_path):
    """5 GiB of holes: the size is right but for 4 GiB."""
    there = 2**32 + 1_000
    with (tmp_path / "x").open("wb") as file:
        file.write(wav(1_000, b"", riff=1_036))
        file.truncate(44 + there)
    with io.FileIO(tmp_path / "x") as file:
        contents = examine(file, 44 + there)
    assert contents.fault is None
    patched = PatchedFile(tmp_path / "x", contents.patches)
    with patched, soundfile.SoundFile(patched) as sound:
        assert sound.frames == there // 2


def test_a_list_that_hangs_libsndfile(tmp_path):
    items = b"INFO" + b"ISFT" + bytes(4) + b"ICMT" + struct.pack("<I", 0xFFFF_FFCC)
    hostile = b"LIST" + struct.pack("<I", 0xFF00_0000) + items
    assert looked_at(tmp_path, wav(0, b"", riff=0, before=hostile)[:96]).fault is not None
    sized = b"LIST" + struct.pack("<I", len(items)) + items
    contents = looked_at(tmp_path, wav(len(PCM), PCM, before=sized))
    assert any(patch == b"JUNK" for _, patch in contents.patches)
    assert len(decoded(tmp_path, wav(len(PCM), PCM, before=sized))) == FRAMES


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_every_flipped_bit_of_ogg_is_found(tmp_path, subtype):
    data = encoded("OGG", subtype)
    assert looked_at(tmp_path, data).fault is None
    random = np.random.default_rng(2)
    for bit in random.choice(len(data) * 8, 300, replace=False):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        contents = looked_at(tmp_path, bytes(damaged))
        assert contents.fault or contents.kind != "OGG", bit


def test_opus_states_its_length_and_a_missing_part_is_found(tmp_path):
    data = encoded("OGG", "OPUS", np.tile(SAMPLES, 40))
    assert looked_at(tmp_path, data).stated_samples == 40 * FRAMES
    pages = [i for i in range(len(data)) if data[i : i + 4] == b"OggS"]
    assert "missing" in looked_at(tmp_path, data[: pages[3]] + data[pages[4] :]).fault
    assert "checksum" in looked_at(tmp_path, data[: pages[3] + 99] + data[pages[3] + 3_000 :]).fault


def test_chains_and_ogg_flac_go_to_ffmpeg(tmp_path):
    data = encoded("OGG", "VORBIS")
    serial = bytearray(data + data)
    assert looked_at(tmp_path, bytes(serial)).decoder == "ffmpeg"


def test_flac(tmp_path):
    data = bytearray(encoded("FLAC"))
    assert "truncated" in looked_at(tmp_path, bytes(data[:-3])).fault
    assert looked_at(tmp_path, bytes(data + data)).fault is not None
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    assert len(decoded(tmp_path, bytes(data))) == FRAMES


def test_mp3(tmp_path):
    data = encoded("MP3", "MPEG_LAYER_III", np.tile(SAMPLES, 10))
    contents = looked_at(tmp_path, data)
    assert (contents.kind, contents.fault) == ("MP3", None)
    assert looked_at(tmp_path, data + data).fault is not None
    assert "truncated" in looked_at(tmp_path, data[: len(data) // 2]).fault
    assert contents.stated_samples == 10 * FRAMES
    at = data.index(b"Info") if b"Info" in data else data.index(b"Xing")
    delays = bytearray(data)
    delays[at + 141] ^= 0x40
    patched = looked_at(tmp_path, bytes(delays))
    assert patched.stated_samples is None
    assert [(at, patch[:3]) for at, patch in patched.patches] == [(0, b"ID3")]
    # That its count is wrong is said all the same.
    fewer = bytearray(data)
    fewer[at + 11] -= 1
    assert "frames, but it has" in looked_at(tmp_path, bytes(fewer)).fault
    tagged = b"ID3\3\0\0\0\0\0\5hello" + data + b"TAG" + bytes(125)
    assert looked_at(tmp_path, tagged).fault is None


def test_caf_of_no_size(tmp_path):
    """Only -1 means that the samples go to the end."""
    data = bytearray(encoded("CAF"))
    at = data.index(b"data") + 4
    data[at : at + 8] = b"\xff" * 8
    assert len(decoded(tmp_path, bytes(data))) == FRAMES
    data[at : at + 8] = bytes(8)
    assert "too small a size (0)" in looked_at(tmp_path, bytes(data)).fault


def test_samples_inside_a_sphere_header(tmp_path):
    data = encoded("NIST")
    assert data.count(b"sample_count -i") == 1
    line = b"sample_count -i %d\n" % FRAMES
    pipe = data.replace(line, b"")
    whole = pipe.replace(b"end_head\n", b"end_head\n" + b" " * len(line))
    assert len(decoded(tmp_path, whole)) == FRAMES
    assert looked_at(tmp_path, pipe).fault is not None


def test_an_aiff_without_a_size_against_its_count(tmp_path):
    data = bytearray(encoded("AIFF"))
    at = data.index(b"SSND")
    data[at + 4 : at + 8] = bytes(4)
    assert len(decoded(tmp_path, bytes(data))) == FRAMES
    assert "truncated" in looked_at(tmp_path, bytes(data[:-500])).fault


@pytest.mark.parametrize("kind", [*PLAIN, "VOC", "IRCAM", "OGG", "MP3"])
def test_random_bytes_after_a_real_beginning(tmp_path, kind):
    subtype = {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(kind, "PCM_16")
    data = encoded(kind, subtype)
    random = np.random.default_rng(3)
    for _ in range(60):
        noise = random.bytes(int(random.integers(0, 300)))
        looked_at(tmp_path, data[: int(random.integers(4, 200))] + noise)
