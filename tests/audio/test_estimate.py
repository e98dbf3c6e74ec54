import io
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from fusion_engine.audio import estimate
from fusion_engine.audio.container import glance
from fusion_engine.audio.estimate import MAX_LOOKS, spread_lengths, stated_seconds, survey
from fusion_engine.audio.listing import Listed
from fusion_engine.output import Row, open_writer

from ..signals import noise
from ..test_output import DIM, SPEC

RATE = 16_000


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def one(samples):
    assert samples > 0
    return 1


def looked_at(path):
    with io.FileIO(path) as file:
        return glance(file, Path(path).stat().st_size)


def write(name, seconds=1.25, channels=1, rate=RATE, **form):
    x = np.stack([noise(seconds, rate, channel) for channel in range(channels)], axis=1)
    with Path(name).open("wb") as file:
        soundfile.write(file, x, rate, **(form or {"format": "WAV"}))
    return Path(name)


def test_the_length_of_one_file():
    assert stated_seconds(write("a.wav")) == 1.25
    Path("text.wav").write_text("no audio")
    assert stated_seconds("text.wav") is None
    assert stated_seconds("missing.wav") is None
    flac = bytearray(write("a.flac", format="FLAC").read_bytes())
    flac[22:26] = b"\xff" * 4  # of the number of samples
    Path("years.flac").write_bytes(flac)
    assert stated_seconds("a.flac") == 1.25
    assert looked_at("years.flac").seconds > 200_000
    assert stated_seconds("years.flac") == len(flac) / 100
    os.mkfifo("pipe.wav")
    assert stated_seconds("pipe.wav") is None


def test_the_lengths_of_some_files():
    files = [write(f"{number}.wav", seconds=number / 4) for number in range(1, 21)]
    assert spread_lengths(files, 20) == [number / 4 for number in range(1, 21)]
    some = spread_lengths([*files, Path("missing.wav")], 7)
    assert len(some) == 7
    assert [-(-4 * (length or 5.25) // 3) for length in some] == [1, 2, 3, 4, 5, 6, 7]


FORMATS = [
    *(("WAV", s) for s in ("PCM_U8", "PCM_24", "FLOAT", "ULAW", "MS_ADPCM", "GSM610")),
    *(("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("FLAC", "PCM_16")),
    *(("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
    *(("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("AU", "PCM_16"), ("CAF", "PCM_24")),
    ("NIST", "PCM_16"),
]


@pytest.mark.parametrize("endian", [None, "BIG", "LITTLE"])
@pytest.mark.parametrize(("container", "subtype"), FORMATS)
def test_lengths_are_those_of_libsndfile(container, subtype, endian):
    if not soundfile.check_format(container, subtype, endian):
        return  # of one byte order alone
    for channels, rate in ((1, 16_000), (2, 48_000)):
        if subtype == "GSM610" and channels == 2:
            continue
        form = {"format": container, "subtype": subtype, "endian": endian}
        write("x", 1.25, channels, rate, **form)
        info = soundfile.info("x")
        seen = looked_at("x")
        assert (seen.channels, seen.stated) == (channels, True)
        # The last block of these is filled up, and of an MP3 libsndfile only guesses.
        blocks = subtype in ("MS_ADPCM", "GSM610", "MPEG_LAYER_III")
        tolerance = 0.07 if blocks else 1e-9
        assert seen.seconds == pytest.approx(info.frames / info.samplerate, abs=tolerance)


def test_mp3_without_a_stated_length_is_by_the_bit_rate_of_its_first_frames():
    write("x", 20.0, format="MP3", subtype="MPEG_LAYER_III")
    data = Path("x").read_bytes()
    at = data.index(b"Xing")
    Path("y").write_bytes(b"ID3\4\0\0\0\0\0\4tags" + bytes(9) + data.replace(b"Xing", b"\0\0\0\0"))
    assert 0 < at < 200
    assert looked_at("x").stated
    assert not looked_at("y").stated
    assert looked_at("y").seconds == pytest.approx(20.0, rel=0.02)


def test_tags_before_the_samples_are_skipped():
    for form in ({"format": "MP3"}, {"format": "FLAC"}):
        data = write("x", **form).read_bytes()
        Path("y").write_bytes(b"ID3\4\0\0\0\2\0\0" + bytes(1 << 15) + data)
        assert looked_at("y") == looked_at("x")


def test_wav_of_which_the_size_was_never_written():
    data = write("x", 1.5).read_bytes()
    for size in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        Path("y").write_bytes(data[:40] + size + data[44:])
        assert looked_at("y").seconds == 1.5


def test_wav_beyond_4_gib():
    data = write("x").read_bytes()
    size = (1 << 32) + 2 * RATE
    with Path("y").open("wb") as file:
        file.write(data[:40] + (size % 2**32).to_bytes(4, "little"))
        file.truncate(44 + size)  # takes no room
    assert looked_at("y").seconds == size / (2 * RATE)


@given(
    st.sampled_from(sorted({container for container, _ in FORMATS})),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=8),
    st.integers(0, 400),
)
def test_no_header_is_an_error(container, changes, cut):
    data = bytearray(write("whole", 0.2, format=container).read_bytes())
    for at, value in changes:
        data[at] = value
    Path("x").write_bytes(data[: len(data) - cut] if cut % 2 else data[:cut])
    seen = looked_at("x")
    assert seen is None or (0 <= seen.seconds < np.inf and seen.channels >= 1)


def test_what_files_add_up_to():
    paths = [write("a.wav", 1.0), write("b.flac", 2.5, 2, 44_100, format="FLAC")]
    seen = survey(paths, RATE, lambda samples: samples // 8_000, 4)
    assert (seen.files, seen.sampled, seen.rows, seen.guessed) == (2, 2, 2 + 5, 0)
    assert seen.size == sum(path.stat().st_size for path in paths)
    assert seen.seconds == pytest.approx(3.5)
    assert not seen.unreadable
    assert survey(paths, RATE, one, 4, all_channels=True).rows == 1 + 2
    assert survey([], RATE, one, 4).rows == 0


def test_parts_of_files():
    path = write("a.wav", 10.0)
    lengths = []
    parts = [(None, None), (2.0, None), (None, 1.5), (4.0, 5.0), (9.0, 99.0), (10.0, 11.0)]
    seen = survey(
        [Listed(path, *part) for part in parts], RATE, lambda n: lengths.append(n) or 1, 4
    )
    assert lengths == [10 * RATE, 8 * RATE, 1.5 * RATE, RATE, RATE]
    assert (seen.files, seen.rows, seen.seconds) == (1, 5, 21.5)
    assert seen.size == path.stat().st_size


def test_files_that_cannot_be_embedded_are_counted_by_reason():
    Path("empty.wav").touch()
    for number in (1, 2):
        Path(f"{number}.txt").write_text(f"text {number}")
    Path("zip.wav").write_bytes(b"PK\3\4\0")
    Path("folder.wav").mkdir()
    os.mkfifo("pipe.wav")
    Path("loop.wav").symlink_to("loop.wav")
    good = write("good.wav")
    seen = survey([*sorted(Path().iterdir()), Path("missing.wav")], RATE, one, 4)
    assert seen.unreadable == Counter(
        {
            "text, not audio": 2,
            "a ZIP archive, not audio": 1,
            "empty": 1,
            "a folder": 1,
            "not a regular file": 1,
            "Too many levels of symbolic links": 1,
            "No such file or directory": 1,
        }
    )
    assert (seen.files, seen.rows, seen.seconds) == (9, 1, 1.25)
    assert seen.size == good.stat().st_size + 2 * len("text 1") + 5


def test_files_without_a_length_are_taken_by_their_bytes():
    write("x.caf", format="CAF", subtype="ALAC_16")
    Path("y.m4a").write_bytes(b"\0\0\0\x18ftypM4A \0" + bytes(32_000 - 13))
    seen = survey([Path("x.caf"), Path("y.m4a")], RATE, one, 4)
    assert (seen.guessed, seen.rows) == (2, 2)
    assert seen.seconds == pytest.approx(seen.size / 16_000)


def test_a_sample_of_many_files():
    write("short", 1.0)
    write("long", 3.0)
    paths = [Path(f"{i}.wav") for i in range(3 * MAX_LOOKS + 1)]
    for number, path in enumerate(paths):
        path.symlink_to("short" if number < 2 * MAX_LOOKS else "long")
    steps = []
    seen = survey(paths, RATE, one, 100, advance=steps.append)
    assert (seen.files, seen.sampled, seen.rows) == (len(paths), MAX_LOOKS, len(paths))
    assert steps == [1] * MAX_LOOKS
    assert seen.seconds == pytest.approx(2 * MAX_LOOKS + 3 * MAX_LOOKS, rel=0.003)
    assert seen == survey(paths, RATE, one, 100)
    chosen = estimate._spread(paths, MAX_LOOKS)
    assert len(set(chosen)) == MAX_LOOKS
    assert chosen == sorted(chosen, key=lambda path: int(path.stem))
    gaps = np.diff([int(path.stem) for path in chosen])
    assert gaps.max() <= 2 * 4
    assert len(np.unique(gaps)) > 1


def test_the_work_ends_where_advance_does(monkeypatch):
    looks, look = [], estimate._look

    def slow(path):
        looks.append(path)
        time.sleep(0.005)
        return look(path)

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(estimate, "_look", slow)
    with pytest.raises(KeyboardInterrupt):
        survey([Path(f"{i}.wav") for i in range(MAX_LOOKS)], RATE, one, 4, advance=stop)
    assert len(looks) < MAX_LOOKS


def test_the_size_of_the_output_is_that_of_parquet():
    path = write("a name that is not short.wav", 3.0)
    rows = 30_000
    seen = survey([path], RATE, lambda _: rows, 4 * DIM)
    with open_writer("x.parquet", SPEC) as writer:
        row = Row(path=str(path), end=1.0, duration=3.0)
        writer.write([row] * rows, noise(rows / RATE, RATE * DIM).reshape(rows, -1))
    assert pq.ParquetFile("x.parquet").metadata.num_rows == rows
    assert seen.output_size == pytest.approx(Path("x.parquet").stat().st_size, rel=0.01)
