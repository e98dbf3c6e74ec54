import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fusion_engine import AudioError, BackendError
from fusion_engine.audio import decode_ahead, isolated, load, sample_source

from ..signals import noise
from .test_ahead import taken

pytestmark = pytest.mark.heavy

RATE = 16_000
# A file at this rate is the one that the decoder does not survive.
BAD_RATE = 11_025


@pytest.fixture
def clips(tmp_path):
    paths = [tmp_path / f"{i}.wav" for i in range(8)]
    for i, path in enumerate(paths):
        rate = BAD_RATE if i == 3 else RATE
        soundfile.write(path, noise(0.1, rate, i), rate, subtype="FLOAT")
    return paths


def program(folder, fate):
    """The decoding program, with a decoder that does this to the bad file."""
    path = folder / "worker.py"
    path.write_text(
        f"""
import ctypes, importlib.util, os, soundfile
spec = importlib.util.spec_from_file_location("worker", {os.fspath(isolated._PROGRAM)!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
read = soundfile.SoundFile.buffer_read_into
def buffer_read_into(self, buffer, dtype):
    if self.samplerate == {BAD_RATE}:
        {fate}
    return read(self, buffer, dtype)
soundfile.SoundFile.buffer_read_into = buffer_read_into
worker.main()
"""
    )
    return path


# With the GIL held, as a decoder in C that calls nothing of Python.
HANGS = "ctypes.PyDLL(None).sleep(1_000)"


@pytest.fixture
def decoder(tmp_path, monkeypatch):
    def install(fate):
        monkeypatch.setattr(isolated, "_PROGRAM", program(tmp_path, fate))

    workers = []
    monkeypatch.setattr(isolated, "_idle", workers)
    yield install
    while workers:
        workers.pop().end()


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        (HANGS, "the decoder did not answer within 1 s"),
        ("while True: pass", "the decoder did not answer within 1 s"),
        ("os.abort()", "the decoder crashed: signal 6"),
        ("os._exit(7)", "the decoder crashed: exit status 7"),
        ("raise MemoryError", "does not fit into memory"),
    ],
)
def test_a_decoder_that_is_lost_is_one_files_error(decoder, clips, monkeypatch, fate, reason):
    monkeypatch.setattr(sample_source, "BLOCK_TIMEOUT", 1)
    decoder(fate)
    start = time.monotonic()
    results = list(taken(decode_ahead(clips, RATE, workers=2)))
    assert time.monotonic() - start < 20
    assert [path for path, _ in results] == clips
    for i, (path, result) in enumerate(results):
        if i == 3:
            assert isinstance(result, AudioError)
            assert str(path) in str(result)
            assert reason in str(result)
        else:
            np.testing.assert_array_equal(result.samples, noise(0.1, RATE, i))


def test_what_is_there_of_a_file_that_crashes_the_decoder(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(sample_source, "BLOCK", 1_000)
    soundfile.write(tmp_path / "x.wav", noise(0.5, BAD_RATE), BAD_RATE, subtype="FLOAT")
    decoder("self.count = getattr(self, 'count', 0) + 1; self.count > 3 and os.abort()")
    with pytest.raises(AudioError, match="crashed"):
        load(tmp_path / "x.wav", BAD_RATE)
    recording = load(tmp_path / "x.wav", BAD_RATE, partial=True)
    assert recording.partial
    np.testing.assert_array_equal(recording.samples, noise(0.5, BAD_RATE)[: recording.samples.size])
    assert recording.samples.size in (2_000, 3_000)


def running(folder, clips, patience, ending):
    """A program that decodes the clips, one of which hangs the decoder."""
    code = f"""
import sys
from pathlib import Path
from fusion_engine.audio import decode_ahead, isolated, sample_source
isolated._PROGRAM = Path({os.fspath(program(folder, HANGS))!r})
sample_source.BLOCK_TIMEOUT = {patience}
paths = [Path(p) for p in {[str(p) for p in clips]}]
results = decode_ahead(paths, 16_000, workers=2, ahead=8)
print(type(next(results).recording()).__name__, flush=True)
{ending}
"""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("patience", "ending"),
    [(2, ""), (2, "raise SystemExit"), (60, "next(results); next(results); results.close()")],
)
def test_the_program_ends_by_itself(tmp_path, clips, patience, ending):
    process = running(tmp_path, clips, patience, ending)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, "Recording\n", "")


@pytest.mark.parametrize("handler", ["", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))"])
def test_the_program_ends_on_sigterm(tmp_path, clips, handler):
    waiting = f"import signal; {handler}\nwith results:\n    print('ready', flush=True)\n"
    waiting += "    [list(result) for result in results]"
    process = running(tmp_path, clips, 60, waiting)
    assert process.stdout.readline() == "Recording\n"
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == (143 if handler else -signal.SIGTERM)
    assert errors == ""


def test_processes_end_with_the_program(tmp_path, clips):
    process = running(tmp_path, clips[:2], 60, "print(isolated._idle[0]._process.pid); input()")
    process.stdout.readline()
    worker = int(process.stdout.readline() or 0)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}/cmdline").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def test_processes_are_used_again(decoder, clips):
    for _ in range(3):
        load(clips[0], RATE)
    assert len(isolated._idle) == 1
    first = isolated._idle[0]
    os.kill(first._process.pid, signal.SIGKILL)
    first._process.wait()
    load(clips[0], RATE)
    assert isolated._idle[0] is not first


def test_no_process(decoder, clips, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(BackendError, match=r"a process for decoding cannot be started .No such"):
        load(clips[0], RATE)


def _load_in_child(path, answers):
    answers.put(load(path, RATE).samples)


def test_a_forked_process_has_its_own(clips):
    expected = load(clips[0], RATE).samples
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    children = [context.Process(target=_load_in_child, args=(clips[0], answers)) for _ in range(3)]
    for child in children:
        child.start()
    for _ in children:
        np.testing.assert_array_equal(answers.get(timeout=30), expected)
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    np.testing.assert_array_equal(load(clips[0], RATE).samples, expected)


def test_ctrl_c_is_not_theirs(decoder, clips):
    load(clips[0], RATE)
    assert os.getpgid(isolated._idle[0]._process.pid) != os.getpgid(0)
