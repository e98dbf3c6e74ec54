import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import soxr

from fusion_engine import AudioError
from fusion_engine.audio import decode, load, sample_source
from fusion_engine.audio.container import Contents
from fusion_engine.audio.decode import Decoding

from ..signals import noise, tone
from . import mpeg

RATE = 44_100


def fading(seconds=6.0):
    """Loud, then quiet: the first frames of a VBR stream are larger than the rest."""
    x = noise(seconds, RATE, 1)
    return x * np.linspace(1, 0, len(x), dtype=np.float32) ** 4


@pytest.fixture
def vbr(tmp_path):
    data = mpeg.encoded(fading(), RATE, bitrate_mode="VARIABLE", compression_level=0.5)
    frames = mpeg.without_length(data)
    path = tmp_path / "vbr.mp3"
    path.write_bytes(b"".join(frames))
    return path, mpeg.FRAME * len(frames)


def test_mp3_of_a_guessed_length_is_read_to_its_end(vbr):
    path, count = vbr
    assert soundfile.info(path).frames < 0.9 * count
    recording = load(path, RATE)
    assert recording.samples.size == count
    assert not recording.partial
    start, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_allclose(recording.samples[: len(start)], start, rtol=0, atol=1e-6)


def test_joined_streams_are_read_to_their_end(vbr, tmp_path):
    path, count = vbr
    (tmp_path / "two.mp3").write_bytes(2 * path.read_bytes())
    assert load(tmp_path / "two.mp3", RATE).samples.size == 2 * count


def flags(first, at):
    first[at + 7] &= 0xF0


def count(first, at):
    first[at + 8 : at + 12] = bytes(4)


def table(first, at):
    first[at + 16 : at + 120] = bytes(104)


def gaps(first, at):
    first[at + 141 : at + 144] = b"\xff" * 3


@pytest.mark.parametrize("damage", [flags, count, table, gaps])
def test_a_damaged_first_frame_of_mp3_shortens_nothing(tmp_path, damage):
    """libmpg123 would trust what is left of it, and end early."""
    samples = fading(2.0)
    data = bytearray(mpeg.encoded(samples, RATE))
    damage(data, max(data.find(b"Info"), data.find(b"Xing")))
    (tmp_path / "x.mp3").write_bytes(data)
    recording = load(tmp_path / "x.mp3", RATE)
    assert len(samples) <= recording.samples.size <= len(samples) + 3 * mpeg.FRAME
    # What follows is what a stream without that frame gives.
    (tmp_path / "y.mp3").write_bytes(b"".join(mpeg.frames(data)[1:]))
    np.testing.assert_array_equal(recording.samples, load(tmp_path / "y.mp3", RATE).samples)


def test_mp3_in_wav(vbr, tmp_path):
    path, count = vbr
    (tmp_path / "x.wav").write_bytes(mpeg.in_wav(path.read_bytes(), RATE, 1, len(fading())))
    samples = load(tmp_path / "x.wav", RATE).samples
    assert samples.size == count
    np.testing.assert_allclose(samples, load(path, RATE).samples, rtol=0, atol=1e-6)


def test_mp3_that_changes_its_channels(tmp_path):
    """libmpg123 ends there, without a word."""
    x = noise(1.0, RATE)
    parts = [
        mpeg.without_length(mpeg.encoded(samples, RATE)) for samples in (np.stack([x, x], 1), x)
    ]
    (tmp_path / "x.mp3").write_bytes(b"".join(parts[0] + parts[1]))
    with pytest.raises(AudioError, match=r"x\.mp3: it changes between mono and stereo"):
        load(tmp_path / "x.mp3", RATE)
    recording = load(tmp_path / "x.mp3", RATE, partial=True)
    assert recording.partial
    assert recording.samples.size >= mpeg.FRAME * (len(parts[0]) - 1)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="compares with ffmpeg")
def test_mp3_against_ffmpeg(vbr):
    path, count = vbr
    command = ["ffmpeg", "-v", "error", "-i", path, "-f", "f32le", "-"]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    reference = np.frombuffer(answer, np.float32)
    assert reference.size == count
    np.testing.assert_allclose(load(path, RATE).samples, reference, rtol=0, atol=1e-5)


def test_flac_without_a_length(tmp_path):
    x = np.round(noise(1.0, RATE) * 2**15) / 2**15
    soundfile.write(tmp_path / "x.flac", x, RATE)
    data = bytearray((tmp_path / "x.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "x.flac").write_bytes(data)
    np.testing.assert_array_equal(load(tmp_path / "x.flac", RATE).samples, x)


def test_what_libmpg123_writes_is_caught(vbr, tmp_path, capfd, caplog):
    frames = vbr[0].read_bytes()
    (tmp_path / "junk.mp3").write_bytes(frames + b"junk" * 5_000 + frames)
    caplog.set_level(logging.DEBUG)
    assert load(tmp_path / "junk.mp3", RATE, partial=True).partial
    assert capfd.readouterr().err == ""
    assert any("junk.mp3: " in record.getMessage() for record in caplog.records)


@pytest.fixture
def told(monkeypatch):
    """What is said of the container's contents."""

    def say(**contents):
        monkeypatch.setattr(decode, "examine", lambda file, size: Contents(kind="X", **contents))

    return say


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(0.1, 16_000), 16_000, subtype="FLOAT")
    return path


def test_a_fault(told, clip):
    told(fault="truncated, 3 of the 9 bytes are there")
    with pytest.raises(AudioError, match=r"x\.wav: truncated, 3 of the 9 bytes are there; copy"):
        load(clip, 16_000)
    recording = load(clip, 16_000, partial=True)
    assert recording.partial
    np.testing.assert_array_equal(recording.samples, noise(0.1, 16_000))


@pytest.mark.parametrize("stated", [1_599, 1_601])
def test_a_count_that_differs_by_one(told, clip, stated):
    told(stated_samples=stated)
    with pytest.raises(AudioError, match=f"1600 of the {stated} samples that its header states"):
        load(clip, 16_000)
    recording = load(clip, 16_000, partial=True)
    assert recording.partial
    assert recording.samples.size == 1_600


def test_fewer_samples_than_its_frames_add_up_to(told, clip):
    told(least_samples=1_601)
    with pytest.raises(AudioError, match=r"1600 of at least 1601 samples that its frames add up"):
        load(clip, 16_000)
    assert load(clip, 16_000, partial=True).partial
    told(least_samples=1_600)
    assert not load(clip, 16_000).partial


def test_a_right_count(told, clip):
    told(stated_samples=1_600)
    assert not load(clip, 16_000).partial


def test_patches(told, clip):
    told(patches=((clip.stat().st_size - 4, np.float32(0.25).tobytes()),))
    assert load(clip, 16_000).samples[-1] == 0.25


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_channels(tmp_path, rate):
    x = np.stack([tone(0.5, rate, seed) for seed in range(3)], axis=1)
    soundfile.write(tmp_path / "x.wav", x, rate, subtype="FLOAT")

    def resampled(samples):
        samples = samples.astype(np.float32)
        return soxr.resample(samples, rate, 16_000, quality="HQ") if rate != 16_000 else samples

    def loaded(channel):
        return load(tmp_path / "x.wav", 16_000, channel=channel).samples

    for number in range(3):
        np.testing.assert_array_equal(loaded(number + 1), resampled(x[:, number]))
    np.testing.assert_array_equal(loaded("first"), resampled(x[:, 0]))
    np.testing.assert_array_equal(loaded("mix"), resampled(x.astype(np.float64).mean(axis=1)))
    assert loaded("all").shape == (3, 8_000)
    np.testing.assert_array_equal(loaded("all"), np.stack([loaded(n) for n in (1, 2, 3)]))
    with pytest.raises(AudioError, match=r"x\.wav: has 3 channels, channel 4 was") as caught:
        loaded(4)
    assert caught.value.kind == "without the channel asked for"


@pytest.mark.parametrize(
    ("channel", "error"),
    [("left", ValueError), (0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)],
)
def test_wrong_channels(clip, channel, error):
    with pytest.raises(error, match="channel is"):
        load(clip, 16_000, channel=channel)


def test_channels_that_cancel_out_are_silent(tmp_path):
    x = (tone(0.5, RATE) * 2**15).astype(np.int16)
    soundfile.write(tmp_path / "x.wav", np.stack([x, -x], axis=1), RATE)
    for rate in (16_000, RATE):
        assert load(tmp_path / "x.wav", rate).silent
        assert not load(tmp_path / "x.wav", rate, channel="first").silent
        assert not load(tmp_path / "x.wav", rate, channel="all").silent


def test_one_sample_is_not_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_source, "BLOCK", 100)
    for place in (0, 555, 999):
        x = np.zeros(1_000, np.float32)
        x[place] = 1e-9
        soundfile.write(tmp_path / "x.wav", x, RATE, subtype="FLOAT")
        assert not load(tmp_path / "x.wav", 16_000).silent
    soundfile.write(tmp_path / "x.wav", 0 * x, RATE, subtype="FLOAT")
    assert load(tmp_path / "x.wav", 16_000).silent


@pytest.mark.parametrize(("peak", "flag"), [(16.0, False), (16.1, True), (-32_768.0, True)])
def test_integers_saved_as_floats(clip, peak, flag):
    x = noise(0.1, 16_000)
    x[700] = peak
    soundfile.write(clip, x, 16_000, subtype="FLOAT")
    assert load(clip, 16_000).clipped_scale is flag


def test_blocks_are_kept_by_whoever_collects_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_source, "BLOCK", 1_000)
    x = noise(1.0, 16_000)
    soundfile.write(tmp_path / "x.wav", x, 16_000, subtype="FLOAT")
    with Decoding(tmp_path / "x.wav", 16_000) as decoding:
        assert decoding.expected == 16_000
        blocks = list(decoding)
    assert len(blocks) == 16
    np.testing.assert_array_equal(np.concatenate(blocks)[:, 0], x)


def test_memory_that_runs_out_is_that_files_error(tmp_path, monkeypatch):
    """72 KB of FLAC that are two minutes; the limit is that of another process."""
    soundfile.write(tmp_path / "zeros.flac", np.zeros(40_000_000, np.int16), RATE)
    program = f"""
import resource, numpy, soxr
from fusion_engine import AudioError
from fusion_engine.audio import load
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**27, size + 2**27))
try:
    load({str(tmp_path / "zeros.flac")!r}, {RATE})
except AudioError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert "zeros.flac: does not fit into memory" in done.stdout, done.stderr
