import shutil
import struct
import subprocess
import time

import numpy as np
import pytest
import soundfile

from fusion_engine import AudioError
from fusion_engine.audio import decode, load, sample_source

from ..signals import noise, speech_like

RATE = 22_050
REAL = shutil.which("ffmpeg")
needs_ffmpeg = pytest.mark.skipif(REAL is None, reason="runs the real ffmpeg")


@pytest.fixture
def unknown(tmp_path):
    """A file of a format that libsndfile does not know."""
    path = tmp_path / "clip.m4a"
    path.write_bytes(b"\0\0\0\x18ftypM4A " + bytes(1_000))
    return path


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """A program that answers as it is told."""

    def install(samples=None, said="", status=0, commands=""):
        answer = b""
        if samples is not None:
            header = (b".snd", 28, 0xFFFF_FFFF, 6, RATE, samples.shape[1])
            answer = struct.pack(">4sIIIII", *header) + b"note" + samples.astype(">f4").tobytes()
        (tmp_path / "answer").write_bytes(answer)
        (tmp_path / "said").write_text(said)
        program = tmp_path / "ffmpeg"
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\ncat {tmp_path}/answer\n'
            f"cat {tmp_path}/said >&2\n{commands}\nexit {status}\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr(decode, "find_ffmpeg", lambda: str(program))

    return install


def two_channels(seconds=3.0):
    return np.stack([noise(seconds, RATE, 1), noise(seconds, RATE, 2)], axis=1)


def test_its_answer(unknown, ffmpeg, tmp_path):
    x = two_channels()
    ffmpeg(x)
    np.testing.assert_array_equal(load(unknown, RATE, channel="all").samples, x.T)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[arguments.index("-i") + 1] == f"file:{unknown}"
    assert arguments[arguments.index("-protocol_whitelist") + 1] == "file"
    formats = arguments[arguments.index("-format_whitelist") + 1].split(",")
    assert "mov" in formats
    assert not {"hls", "concat", "dash"} & set(formats)


def test_its_complaints_are_damage(unknown, ffmpeg):
    x = two_channels()
    ffmpeg(x, said="[aac @ 0x55d1] Number of bands exceeds limit\n[aac @ 0x55d1] more\n")
    with pytest.raises(AudioError, match=r"broke off .Number of bands exceeds limit.; copy"):
        load(unknown, RATE)
    recording = load(unknown, RATE, channel="all", partial=True)
    assert recording.partial
    np.testing.assert_array_equal(recording.samples, x.T)


def test_its_exit_status(unknown, ffmpeg):
    ffmpeg(two_channels(), status=3)
    with pytest.raises(AudioError, match="ffmpeg: exit status 3"):
        load(unknown, RATE)
    assert load(unknown, RATE, partial=True).partial


def test_what_it_does_not_know(unknown, ffmpeg):
    ffmpeg(said=f"file:{unknown}: Invalid data found when processing input\n", status=1)
    with pytest.raises(
        AudioError,
        match=r"clip\.m4a: cannot be decoded \(Format not recognised; ffmpeg: Invalid data found",
    ):
        load(unknown, RATE)


def test_more_complaints_than_a_pipe_holds(unknown, ffmpeg):
    ffmpeg(two_channels(0.5), said="damage\n" * 50_000)
    assert load(unknown, RATE, partial=True).samples.size == RATE // 2


def test_it_does_not_answer(unknown, ffmpeg, monkeypatch):
    monkeypatch.setattr(sample_source, "BLOCK_TIMEOUT", 1)
    ffmpeg(two_channels(), commands="exec sleep 100")
    start = time.monotonic()
    with pytest.raises(AudioError, match="ffmpeg did not answer within 1 s"):
        load(unknown, RATE)
    assert time.monotonic() - start < 20


def test_without_it(unknown):
    with pytest.raises(AudioError, match=r"Format not recognised.*install ffmpeg") as caught:
        load(unknown, RATE)
    assert caught.value.kind == "cannot be decoded; ffmpeg is not installed"


@pytest.fixture
def real(monkeypatch):
    monkeypatch.setattr(decode, "find_ffmpeg", lambda: REAL)


def converted(path, *options):
    soundfile.write(path.parent / "whole.wav", speech_like(2.0, 16_000), 16_000)
    command = [REAL, "-v", "error", "-i", path.parent / "whole.wav", *options, path]
    subprocess.run(command, check=True)
    return speech_like(2.0, 16_000)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options", "slack"),
    [
        ("x.ogg", ["-c:a", "flac"], 0),
        ("x.mka", ["-c:a", "pcm_s16le"], 0),
        ("x.m4a", ["-c:a", "aac"], 1_024),
        ("x.aac", ["-c:a", "aac"], 2_048),
        ("x.wma", ["-c:a", "wmav2"], 4_096),
        ("x.mov", ["-c:a", "alac"], 0),
    ],
)
def test_formats_of_others(tmp_path, real, name, options, slack):
    x = converted(tmp_path / name, *options)
    y = load(tmp_path / name, 16_000).samples
    assert abs(len(y) - len(x)) <= slack
    if slack == 0:
        np.testing.assert_allclose(y, x, rtol=0, atol=2**-15)


@needs_ffmpeg
def test_a_damaged_file(tmp_path, real):
    converted(tmp_path / "x.m4a", "-c:a", "aac")
    data = bytearray((tmp_path / "x.m4a").read_bytes())
    middle = slice(len(data) // 2, len(data) // 2 + 2_000)
    data[middle] = np.random.default_rng(0).bytes(2_000)
    (tmp_path / "x.m4a").write_bytes(data)
    with pytest.raises(AudioError, match="broke off"):
        load(tmp_path / "x.m4a", 16_000)
    assert load(tmp_path / "x.m4a", 16_000, partial=True).partial


@needs_ffmpeg
def test_a_playlist_opens_no_other_file(tmp_path, real):
    """After a byte order mark of another kind, so that it is not seen to be text."""
    soundfile.write(tmp_path / "secret.wav", noise(1.0, 16_000), 16_000)
    (tmp_path / "x.wav").write_bytes(b"ffconcat version 1.0\nfile secret.wav\n#\x01\n")
    with pytest.raises(AudioError, match=r"cannot be decoded.*Format not on whitelist\), expected"):
        load(tmp_path / "x.wav", 16_000)


@needs_ffmpeg
@pytest.mark.parametrize(("suffix", "codec"), [("aac", "aac"), ("ac3", "ac3"), ("mp2", "mp2")])
def test_a_bare_stream_begins_with_a_frame(tmp_path, real, suffix, codec):
    """ffmpeg would find one further on too, and give what is left without a word."""
    soundfile.write(tmp_path / "x.wav", speech_like(1.0, 48_000), 48_000)
    path = tmp_path / f"x.{suffix}"
    command = [REAL, "-v", "error", "-i", tmp_path / "x.wav", "-c:a", codec, path]
    subprocess.run(command, check=True)
    assert abs(load(path, 48_000).samples.size - 48_000) <= 3_000
    data = path.read_bytes()
    path.write_bytes(data[:1] + bytes(500) + data[501:])
    with pytest.raises(AudioError, match="cannot be decoded"):
        load(path, 48_000)
