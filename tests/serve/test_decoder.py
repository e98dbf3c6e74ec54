"""A stranger's bytes: decoded as files are, and what is refused."""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fusion_engine.audio import isolated, load
from fusion_engine.serve.decoder import Decoder
from fusion_engine.serve.reply import RequestError

from ..audio.test_isolated import BAD_RATE, HANGS, program
from ..signals import noise
from .audio import RATE, wav


def recordings_open():
    """What is held of recordings, in this process."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return [name for name in found if "recording" in name]


def decode(data, *, most=60.0, seconds=60.0):
    return asyncio.run(Decoder(RATE, seconds, 1).decode(data, most, "input[2]"))


def refused(data, **options):
    with pytest.raises(RequestError) as caught:
        decode(data, **options)
    assert str(caught.value).startswith("input[2]: ")
    assert caught.value.param == "input[2]"
    assert "/proc/" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(("suffix", "rate", "channels"), [("wav", 16_000, 1), ("flac", 44_100, 2)])
def test_samples_are_those_of_the_file(suffix, rate, channels, tmp_path):
    path = tmp_path / f"clip.{suffix}"
    clip = np.stack([noise(0.7, rate, seed) for seed in range(channels)], 1)
    soundfile.write(path, clip, rate)
    np.testing.assert_array_equal(decode(path.read_bytes()), load(path, RATE).samples)


def test_nothing_is_left_open():
    decode(wav(seed=1))
    refused(b"%PDF-1.7 and so on")
    refused(wav(2.0), most=1.0)
    assert not recordings_open()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "bad_audio"),
        (b"%PDF-1.7 and so on", 415, "not_audio"),
        (b"<html>an error page</html>", 415, "not_audio"),
        (os.urandom(4_096), 415, "not_audio"),
        (wav()[:-999], 422, "bad_audio"),
        (wav(rate=500), 422, "bad_audio"),
    ],
    ids=["empty", "pdf", "html", "random", "truncated", "rate"],
)
def test_what_is_no_audio(data, status, code):
    error = refused(data)
    assert (error.status, error.code) == (status, code)


def test_samples_that_are_not_finite():
    def make(*_):
        clip = noise(0.1, RATE)
        clip[7] = np.nan
        return clip

    assert refused(wav(make=make)).status == 422


def test_a_bomb_is_decoded_up_to_the_limit(tmp_path):
    """An hour of silence in some kilobytes."""
    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for _ in range(60):
            file.write(np.zeros(60 * RATE, np.int16))
    data = path.read_bytes()
    assert len(data) < 2**20
    error = refused(data, most=30.0)
    assert (error.status, error.code) == (413, "audio_too_long")
    assert "30 s" in str(error)
    assert len(decode(wav(1.0), most=1.0)) == RATE


@pytest.fixture
def hanging(tmp_path, monkeypatch):
    """A decoder that hangs on recordings of ``BAD_RATE``."""
    monkeypatch.setattr(isolated, "_PROGRAM", program(tmp_path, HANGS))
    monkeypatch.setattr(isolated, "_idle", workers := [])
    yield
    for worker in workers:
        worker.end()


@pytest.mark.heavy
@pytest.mark.usefixtures("hanging")
def test_a_decoder_that_hangs_is_ended():
    async def main():
        decoder = Decoder(RATE, 1.0, 2)
        return await asyncio.gather(
            decoder.decode(wav(rate=BAD_RATE), 60.0, "input[0]"),
            decoder.decode(wav(), 60.0, "input[1]"),
            return_exceptions=True,
        )

    hung, healthy = asyncio.run(main())
    assert (hung.status, hung.code) == (504, "decode_timeout")
    assert len(healthy) == RATE


@pytest.mark.heavy
@pytest.mark.usefixtures("hanging")
def test_a_request_that_is_given_up_ends_its_decoding():
    async def main():
        decoder = Decoder(RATE, 1_000.0, 1)
        task = asyncio.create_task(decoder.decode(wav(rate=BAD_RATE), 60.0, "input"))
        while not recordings_open():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    # Far sooner than the 30 s that a decoder has for a block.
    deadline = time.monotonic() + 20
    while recordings_open() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not recordings_open()
