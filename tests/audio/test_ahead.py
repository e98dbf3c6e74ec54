import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fusion_engine import AudioError
from fusion_engine.audio import Recording, decode_ahead, load
from fusion_engine.audio import ahead as ahead_module

from ..signals import noise

RATE = 16_000


@pytest.fixture
def clips(tmp_path):
    """Forty clips of very different lengths."""
    paths = []
    for i, seconds in enumerate(np.random.default_rng(0).permutation(np.geomspace(0.01, 3, 40))):
        paths.append(tmp_path / f"{i}.wav")
        soundfile.write(paths[-1], noise(seconds, 22_050, i), 22_050)
    return paths


def decoders():
    return [t for t in threading.enumerate() if t.name.startswith("fusion_engine-decode")]


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"workers": 1},
        {"workers": 8},
        {"workers": 4, "ahead": 1},
        {"workers": 1, "max_samples": 1},
        {"workers": 4, "ahead": 3, "max_samples": 20_000},
    ],
    ids=str,
)
def test_results_in_order(clips, limits):
    results = list(decode_ahead(clips, RATE, **limits))
    assert [path for path, _ in results] == clips
    for path, samples in results:
        np.testing.assert_array_equal(samples.samples, load(path, RATE).samples)
    assert not decoders()


def test_no_files():
    assert list(decode_ahead([], RATE)) == []


def test_errors_are_values(clips, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    paths = [tmp_path / "missing.wav", clips[0], tmp_path / "text.wav", tmp_path, clips[1]]
    results = dict(decode_ahead(paths, RATE, workers=2))
    for path in paths:
        if path in clips:
            np.testing.assert_array_equal(results[path].samples, load(path, RATE).samples)
        else:
            assert isinstance(results[path], AudioError)
            assert str(path) in str(results[path])


def test_other_exceptions_reach_the_consumer(clips):
    with pytest.raises(ValueError, match="sample_rate is 0 Hz"):
        list(decode_ahead(clips, 0, workers=2))
    assert not decoders()


@pytest.mark.parametrize("limit", ["workers", "ahead", "max_samples"])
def test_limits_below_one(limit):
    with pytest.raises(ValueError, match="expected at least 1 each"):
        decode_ahead([], RATE, **{limit: 0})


class Gauge:
    """``load``, counting the decodes started and the most at once."""

    def __init__(self):
        self.lock = threading.Lock()
        self.started = self.running = self.most_running = self.samples = 0

    def __call__(self, path, sample_rate, **options):
        with self.lock:
            self.started += 1
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        samples = load(path, sample_rate)
        with self.lock:
            self.running -= 1
            self.samples += samples.samples.size
        return samples


def settled(gauge, started=0):
    """Wait for so many decodes, then a moment longer for those that should not be."""
    while gauge.started < started or gauge.running:
        threading.Event().wait(0.001)
    threading.Event().wait(0.02)


def test_at_most_so_many_clips_ahead(clips, monkeypatch):
    gauge = Gauge()
    monkeypatch.setattr(ahead_module, "load", gauge)
    # More samples than are allowed at once, so what is consumed must not count.
    twice, limit = clips * 2, 300_000
    assert 2 * sum(soundfile.info(clip).duration for clip in clips) * RATE > 2 * limit
    results = decode_ahead(twice, RATE, workers=3, ahead=5, max_samples=limit)
    for taken, _ in enumerate(results, start=1):
        if taken in (1, 2, 10, 72, 77):
            expected = min(taken + 5, len(twice))
            settled(gauge, expected)
            assert gauge.started == expected
    assert gauge.started == len(twice)
    assert gauge.most_running <= 3


def test_at_most_so_many_samples_ahead(clips, monkeypatch):
    gauge, limit, longest = Gauge(), 60_000, 3 * RATE
    monkeypatch.setattr(ahead_module, "load", gauge)
    consumed = 0
    for taken, (_, recording) in enumerate(
        decode_ahead(clips, RATE, workers=4, ahead=40, max_samples=limit)
    ):
        consumed += recording.samples.size
        if taken % 8 == 0:
            settled(gauge)
            # The last one started may bring more than its share, and 16-bit files at 22.05 kHz
            # have more bytes than they become samples.
            assert gauge.samples - consumed <= limit + longest
            assert gauge.started < len(clips) or taken >= 8
    assert gauge.started == len(clips)


def test_closing_early(clips, monkeypatch):
    gauge, proceed = Gauge(), threading.Event()

    def load_when_told(path, sample_rate, **options):
        samples = gauge(path, sample_rate)
        assert path == clips[0] or proceed.wait(60)
        return samples

    monkeypatch.setattr(ahead_module, "load", load_when_told)
    results = decode_ahead(clips, RATE, workers=2, ahead=20)
    next(results)
    settled(gauge, 3)
    threading.Timer(0.1, proceed.set).start()
    results.close()
    assert not decoders()
    assert gauge.started == 1 + 2  # the one taken and those under way
    assert list(results) == []


def test_never_started(clips):
    del clips[1:]
    decode_ahead(clips, RATE).close()
    assert not decoders()


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", "del results"])
def test_an_abandoned_iterator_does_not_hang_the_interpreter(clips, ending):
    program = f"""
from pathlib import Path
from fusion_engine.audio import decode_ahead
paths = [Path(p) for p in {[str(p) for p in clips]}]
results = decode_ahead(paths, 16_000, workers=3, ahead=2, max_samples=1)
next(results)
{ending}
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""


def test_garbage_may_be_collected_in_a_decoding_thread(clips):
    """An iterator left behind in a cycle goes where a decoding thread holds its own locks."""
    program = f"""
import gc, threading
from concurrent.futures import Future
from pathlib import Path
from fusion_engine.audio import ahead
paths = [Path(p) for p in {[str(p) for p in clips]}]
proceed, load, init = threading.Event(), ahead.load, Future.__init__
ahead.load = lambda path, rate, **options: (path == paths[0] or proceed.wait()) and load(path, rate)
# Made with the lock held.
Future.__init__ = lambda future: (gc.collect(), init(future))[1]
box = [ahead.decode_ahead(paths, 16_000, workers=1, ahead=2)]
gc.disable()
next(box[0])
box.append(box)
del box
proceed.set()
for thread in threading.enumerate()[1:]:
    thread.join(20)
    assert not thread.is_alive()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


def test_missing_files_only():
    paths = [Path(f"missing-{i}.wav") for i in range(500)]
    results = list(decode_ahead(paths, RATE, workers=4, ahead=2))
    assert [path for path, _ in results] == paths
    assert all(isinstance(result, AudioError) for _, result in results)


def test_where_no_thread_can_start(clips, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    results = list(decode_ahead(clips, RATE))
    assert [path for path, _ in results] == clips
    for path, recording in results:
        np.testing.assert_array_equal(recording.samples, load(path, RATE).samples)


def test_where_some_threads_can_start(clips, monkeypatch):
    start, count = threading.Thread.start, iter(range(10_000))

    def refuse_others(thread):
        if next(count) % 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_others)
    results = list(decode_ahead(clips, RATE, workers=3, ahead=4))
    assert [path for path, _ in results] == clips
    assert all(isinstance(recording, Recording) for _, recording in results)
    assert not decoders()


@pytest.mark.parametrize(
    "when",
    [
        "atexit.register(decode)",
        "threading.Thread(target=lambda: (threading.main_thread().join(), decode())).start()",
    ],
)
def test_while_the_interpreter_shuts_down(clips, when):
    program = f"""
import atexit, threading
from pathlib import Path
from fusion_engine.audio import decode_ahead
paths = [Path(p) for p in {[str(p) for p in clips[:9]]}]
def decode():
    print(sum(recording.samples.size > 0 for _, recording in decode_ahead(paths, 16_000)))
{when}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("9\n", "")
