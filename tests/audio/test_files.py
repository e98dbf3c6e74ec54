import os
import subprocess
import sys
import tempfile
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.io.wavfile
import soundfile
import soxr

from fusion_engine import AudioError
from fusion_engine.audio import files as files_module
from fusion_engine.audio import load, sample_source

from ..signals import SIGNALS, noise, speech_like, tone

RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]


def stereo(seconds, rate):
    return np.stack([tone(seconds, rate, 1), speech_like(seconds, rate, 2)], axis=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_wav_written_by_scipy(tmp_path, dtype):
    x = noise(0.2, 16_000).astype(np.float64)
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        scale, zero = (int(info.max) - int(info.min) + 1) // 2, (int(info.max) + info.min + 1) // 2
        x = np.round(x * (scale - 1)) + zero
        expected = (x.astype(dtype).astype(np.float64) - zero) / scale
    else:
        expected = x.astype(dtype)
    scipy.io.wavfile.write(tmp_path / "x.wav", 16_000, x.astype(dtype))
    y = load(tmp_path / "x.wav", 16_000).samples
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, expected.astype(np.float32))


def test_wav_of_24_bits(tmp_path):
    x = noise(0.2, 16_000).astype(np.float64)
    soundfile.write(tmp_path / "x.wav", x, 16_000, subtype="PCM_24")
    _, reference = scipy.io.wavfile.read(tmp_path / "x.wav")
    np.testing.assert_array_equal(
        load(tmp_path / "x.wav", 16_000).samples, reference / np.float64(2**31)
    )


@pytest.mark.parametrize("bits", [16, 24])
def test_flac_is_lossless(tmp_path, bits):
    scale = 2 ** (bits - 1)
    x = np.round(noise(0.2, 16_000).astype(np.float64) * (scale - 1)) / scale
    soundfile.write(tmp_path / "x.flac", x, 16_000, subtype=f"PCM_{bits}")
    np.testing.assert_array_equal(load(tmp_path / "x.flac", 16_000).samples, x)


@pytest.mark.parametrize(
    ("name", "subtype"),
    [("x.ogg", "VORBIS"), ("x.opus", "OPUS"), ("x.mp3", None), ("x.aiff", "PCM_16")],
)
def test_other_formats_keep_the_sound(tmp_path, name, subtype):
    x = speech_like(1.0, 16_000)
    container = "OGG" if subtype in ("VORBIS", "OPUS") else None
    soundfile.write(tmp_path / name, x, 16_000, subtype=subtype, format=container)
    y = load(tmp_path / name, 16_000).samples
    assert y.size == x.size
    # Default qualities of the lossy encoders: noise at least 10 dB below the sound.
    assert np.sum((y - x) ** 2) < 0.1 * np.sum(x**2)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_stereo_at_any_rate_against_librosa(tmp_path, rate, suffix):
    path = tmp_path / f"x{suffix}"
    soundfile.write(path, stereo(0.7, rate), rate)
    reference, _ = librosa.load(path, sr=16_000, mono=True, res_type="soxr_hq")
    y = load(path, 16_000).samples
    # librosa cuts or zero-pads the end to the rounded-up length.
    assert 0 <= reference.size - y.size <= 1
    # It adds the channels in float32, which rounds once more.
    np.testing.assert_allclose(y, reference[: y.size], rtol=0, atol=2 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("channels", [2, 3, 6, 8])
def test_channels_are_averaged(tmp_path, channels):
    x = np.stack([noise(0.2, 16_000, seed) for seed in range(channels)], axis=1)
    soundfile.write(tmp_path / "x.wav", x, 16_000, subtype="FLOAT")
    expected = x.astype(np.float64).mean(axis=1).astype(np.float32)
    np.testing.assert_array_equal(load(tmp_path / "x.wav", 16_000).samples, expected)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("frames", [1, 2, 511, 512, 513, 1_024, 30_001])
def test_blocks_do_not_change_the_answer(tmp_path, monkeypatch, rate, frames):
    x = noise(frames / rate, rate, 5)
    soundfile.write(tmp_path / "x.wav", np.stack([x, x], axis=1), rate, subtype="FLOAT")
    expected = soxr.resample(x, rate, 16_000, quality="HQ") if rate != 16_000 else x
    monkeypatch.setattr(sample_source, "BLOCK", 1_024)  # 512 frames of two channels
    if expected.size == 0:
        with pytest.raises(AudioError, match="expected a longer clip"):
            load(tmp_path / "x.wav", 16_000)
    else:
        np.testing.assert_array_equal(load(tmp_path / "x.wav", 16_000).samples, expected)


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg", "x.mp3"])
def test_blocks_of_every_decoder(tmp_path, monkeypatch, name):
    soundfile.write(tmp_path / name, noise(1.0, 44_100), 44_100)
    whole, _ = soundfile.read(tmp_path / name, dtype="float32")
    # libmpg123 rounds differently where its buffer is aligned differently.
    atol = np.finfo(np.float32).eps if name == "x.mp3" else 0
    for block in (sample_source.BLOCK, 1_000):
        monkeypatch.setattr(sample_source, "BLOCK", block)
        np.testing.assert_allclose(load(tmp_path / name, 44_100).samples, whole, rtol=0, atol=atol)


def test_a_result_longer_than_was_believed(tmp_path, monkeypatch):
    x = noise(0.5, 16_000)
    soundfile.write(tmp_path / "x.wav", x, 16_000, subtype="FLOAT")
    monkeypatch.setattr(files_module, "_BELIEVED", 100)
    monkeypatch.setattr(sample_source, "BLOCK", 1_000)
    y = load(tmp_path / "x.wav", 16_000).samples
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("name", sorted(SIGNALS))
def test_every_signal_through_a_float_wav(tmp_path, name):
    x = 2 * SIGNALS[name](0.25, 16_000)  # beyond [-1, 1] is taken as it is
    soundfile.write(tmp_path / "x.wav", x, 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(load(str(tmp_path / "x.wav"), 16_000).samples, x)


def test_the_suffix_means_nothing(tmp_path):
    for name in ("x.mp3", "x.raw", "x", "x.txt"):
        soundfile.write(tmp_path / name, noise(0.1, 16_000), 16_000, format="WAV", subtype="FLOAT")
        assert load(tmp_path / name, 16_000).samples.size == 1_600


def test_memory_is_that_of_the_result(tmp_path):
    """A quarter of an hour in 44.1 kHz stereo, in a process of its own."""
    path, seconds = tmp_path / "long.wav", 900
    soundfile.write(path, np.zeros((0, 2)), 44_100, subtype="PCM_16")
    size = seconds * 44_100 * 4
    with path.open("r+b") as file:
        header = bytearray(file.read())
        header[4:8] = (len(header) - 8 + size).to_bytes(4, "little")
        header[-4:] = size.to_bytes(4, "little")
        file.seek(0)
        file.write(header)
        file.truncate(len(header) + size)  # sparse: no such disk space is used
    program = f"""
import resource, sys
from fusion_engine.audio import load
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load({str(tmp_path / "short.wav")!r}, 16_000).samples
before = peak()
samples = load({str(path)!r}, 16_000).samples
assert samples.size == {seconds} * 16_000, samples.size
print(peak() - before - samples.nbytes)
"""
    soundfile.write(tmp_path / "short.wav", np.zeros((44_100, 2)), 44_100)
    surplus = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    # Blocks of 1 MiB and their copies; a second copy of the result alone would be 58 MB.
    assert int(surplus) < 8 * 2**20


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 777, 30_000])
def test_samples_that_are_not_finite_are_named(tmp_path, monkeypatch, bad, index):
    monkeypatch.setattr(sample_source, "BLOCK", 1_000)
    x = noise(1.0, 44_100)
    x[index] = bad
    soundfile.write(tmp_path / "bad.wav", x, 44_100, subtype="FLOAT")
    for rate in (16_000, 44_100):
        with pytest.raises(AudioError, match=rf"bad\.wav: sample {index} is {bad}"):
            load(tmp_path / "bad.wav", rate)


def test_samples_that_would_overflow(tmp_path):
    x = np.finfo(np.float32).max * SIGNALS["square"](0.1, 44_100)
    soundfile.write(tmp_path / "loud.wav", x, 44_100, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"loud\.wav: sample 0 is .*beyond"):
        load(tmp_path / "loud.wav", 16_000)


def empty(path):
    path.touch()


def text(path):
    path.write_text("this is no audio\n" * 100)


def random_bytes(path):
    path.write_bytes(np.random.default_rng(0).bytes(50_000))


def no_samples(path):
    soundfile.write(path, np.zeros(0), 16_000, format="WAV")


def one_hertz(path):
    soundfile.write(path, np.zeros(10), 1, format="WAV")


def too_short(path):
    soundfile.write(path, np.zeros(1), 96_000, format="WAV")


def cut(path):
    soundfile.write(path, np.zeros(100), 16_000, format="WAV")
    path.write_bytes(path.read_bytes()[:-100])


def infinite(path):
    soundfile.write(path, [0, 0, 0, np.inf], 16_000, format="WAV", subtype="FLOAT")


@pytest.mark.parametrize(
    ("make", "reason", "kind"),
    [
        (lambda path: None, "No such file", "No such file or directory"),
        (Path.mkdir, "is a folder, expected an audio file", "no regular file"),
        (os.mkfifo, "is not a regular file", "no regular file"),
        (empty, "is empty", "no samples"),
        (text, "is text .it begins with .this is no audio", "not audio"),
        (random_bytes, "cannot be decoded", "cannot be decoded; ffmpeg is not installed"),
        (no_samples, "0 samples at 16000 Hz, expected a longer clip", "no samples"),
        (too_short, "1 samples at 96000 Hz, expected a longer clip", "no samples"),
        (one_hertz, "sample rate is 1 Hz", "sample rate out of range"),
        (cut, "truncated, 100 of the 200 bytes", "damaged or contradictory"),
        (infinite, "sample 3 is inf", "samples that are not finite or overflow"),
    ],
    ids=[
        "missing",
        "folder",
        "pipe",
        "empty",
        "text",
        "random",
        "no_samples",
        "too_short",
        "one_hertz",
        "cut",
        "infinite",
    ],
)
@pytest.mark.parametrize("name", ["bad.wav", "bad.mp3", "bad.flac", "bad.ogg"])
def test_bad_files(tmp_path, make, reason, kind, name):
    make(tmp_path / name)
    with pytest.raises(AudioError, match=f"{name}: .*{reason}") as caught:
        load(tmp_path / name, 16_000)
    assert caught.value.kind == kind


@pytest.fixture
def as_nobody():
    """Permissions do not bind root."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        if root:
            os.chown(folder, 65_534, -1)
            os.seteuid(65_534)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)


def test_no_permission(as_nobody):
    soundfile.write(as_nobody / "secret.wav", np.zeros(100), 16_000)
    (as_nobody / "secret.wav").chmod(0)
    with pytest.raises(AudioError, match=r"secret\.wav: Permission denied") as caught:
        load(as_nobody / "secret.wav", 16_000)
    assert caught.value.kind == "Permission denied"


def test_wrong_rates(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(100), 16_000)
    with pytest.raises(ValueError, match="sample_rate is 0 Hz"):
        load(tmp_path / "x.wav", 0)
    with pytest.raises(TypeError, match="expected an integer"):
        load(tmp_path / "x.wav", 16_000.0)
