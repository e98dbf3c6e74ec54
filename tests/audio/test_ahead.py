import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fusion_engine import AudioError
from fusion_engine.audio import Recording, decode_ahead, load, sample_source
from fusion_engine.audio import ahead as ahead_module
from fusion_engine.audio.decode import Decoding

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


def taken(ahead):
    """(path, recording or error) of every file."""
    for decoded in ahead:
        try:
            yield decoded.path, decoded.recording()
        except AudioError as error:
            yield decoded.path, error


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
    results = list(taken(decode_ahead(clips, RATE, **limits)))
    assert [path for path, _ in results] == clips
    for path, samples in results:
        np.testing.assert_array_equal(samples.samples, load(path, RATE).samples)
    assert not decoders()


def test_no_files():
    assert list(decode_ahead([], RATE)) == []


def test_errors_are_values(clips, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    paths = [tmp_path / "missing.wav", clips[0], tmp_path / "text.wav", tmp_path, clips[1]]
    results = dict(taken(decode_ahead(paths, RATE, workers=2)))
    for path in paths:
        if path in clips:
            np.testing.assert_array_equal(results[path].samples, load(path, RATE).samples)
        else:
            assert isinstance(results[path], AudioError)
            assert str(path) in str(results[path])


def test_other_exceptions_reach_the_consumer(clips):
    with pytest.raises(ValueError, match="sample_rate is 0 Hz"):
        list(taken(decode_ahead(clips, 0, workers=2)))
    assert not decoders()


@pytest.mark.parametrize("limit", ["workers", "ahead", "max_samples"])
def test_limits_below_one(limit):
    with pytest.raises(ValueError, match="expected at least 1 each"):
        decode_ahead([], RATE, **{limit: 0})


class Gauge:
    """``Decoding``, counting the files opened, the blocks given and the most at once."""

    def __init__(self, proceed=None):
        self.lock = threading.Lock()
        self.proceed = proceed
        self.started = self.running = self.most_running = self.samples = 0

    def __call__(self, path, sample_rate, **options):
        with self.lock:
            self.started += 1
        return Counted(self, path, sample_rate, **options)


class Counted(Decoding):
    def __init__(self, gauge, path, sample_rate, **options):
        super().__init__(path, sample_rate, **options)
        self.gauge = gauge

    def __iter__(self):
        blocks = super().__iter__()
        while True:
            with self.gauge.lock:
                self.gauge.running += 1
                self.gauge.most_running = max(self.gauge.most_running, self.gauge.running)
            try:
                if self.gauge.proceed is not None:
                    assert self.gauge.proceed.wait(60)
                block = next(blocks, None)
            finally:
                with self.gauge.lock:
                    self.gauge.running -= 1
            if block is None:
                return
            with self.gauge.lock:
                self.gauge.samples += block.size
            yield block


def settled(gauge, started=0):
    """Wait for so many files, then a moment longer for those that should not be."""
    while gauge.started < started or gauge.running:
        threading.Event().wait(0.001)
    threading.Event().wait(0.02)


def test_at_most_so_many_clips_ahead(clips, monkeypatch):
    gauge = Gauge()
    monkeypatch.setattr(ahead_module, "Decoding", gauge)
    # More samples than are allowed at once, so what is consumed must not count.
    twice, limit = clips * 2, 300_000
    assert 2 * sum(soundfile.info(clip).duration for clip in clips) * RATE > 2 * limit
    results = taken(decode_ahead(twice, RATE, workers=3, ahead=5, max_samples=limit))
    for count, _ in enumerate(results, start=1):
        if count in (1, 2, 10, 72, 77):
            # The one that is being consumed stays in the window.
            expected = min(count + 4, len(twice))
            settled(gauge, expected)
            assert gauge.started == expected
    assert gauge.started == len(twice)
    assert gauge.most_running <= 3


def test_at_most_so_many_samples_ahead(clips, monkeypatch):
    monkeypatch.setattr(sample_source, "BLOCK", 4_000)
    gauge, limit, workers = Gauge(), 30_000, 4
    monkeypatch.setattr(ahead_module, "Decoding", gauge)
    consumed, blocks = 0, 0
    for decoded in decode_ahead(clips, RATE, workers=workers, ahead=40, max_samples=limit):
        for block in decoded:
            consumed += block.size
            blocks += 1
            if blocks % 20 == 0:
                settled(gauge)
                # The files after the one that is read, and that one, and a block of each thread.
                assert gauge.samples - consumed < 2 * limit + workers * 4_000
    assert gauge.started == len(clips)
    assert blocks > 100


def test_a_long_file_comes_in_blocks_that_join_to_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_source, "BLOCK", 3_000)
    gauge = Gauge()
    monkeypatch.setattr(ahead_module, "Decoding", gauge)
    soundfile.write(tmp_path / "x.wav", noise(5.0, 44_100), 44_100)
    (decoded,) = [
        list(decoded)
        for decoded in decode_ahead([tmp_path / "x.wav"], RATE, workers=3, max_samples=1_000)
    ]
    assert len(decoded) > 50
    np.testing.assert_array_equal(
        np.concatenate(decoded)[:, 0], load(tmp_path / "x.wav", RATE).samples
    )
    assert gauge.most_running == 1


def test_what_is_left_of_a_file_is_dropped(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(sample_source, "BLOCK", 1_000)
    ahead = decode_ahead([tmp_path / "missing.wav", *clips], RATE, workers=3, max_samples=5_000)
    assert next(ahead).path == tmp_path / "missing.wav"
    for clip in clips:
        decoded = next(ahead)
        assert decoded.path == clip
        first = next(decoded)
        np.testing.assert_array_equal(first[:, 0], load(clip, RATE).samples[: len(first)])
    assert next(ahead, None) is None
    assert not decoders()


def test_closing_early(clips, monkeypatch):
    proceed = threading.Event()
    proceed.set()
    gauge = Gauge(proceed)
    monkeypatch.setattr(ahead_module, "Decoding", gauge)
    results = decode_ahead(clips, RATE, workers=2, ahead=20)
    assert next(results).recording()
    settled(gauge, 20)
    proceed.clear()
    next(results)  # makes room for another, which waits
    while gauge.running < 1:
        threading.Event().wait(0.001)
    threading.Timer(0.1, proceed.set).start()
    results.close()
    assert not decoders()
    assert gauge.started <= 22
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
next(next(results))
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
    """An iterator abandoned in a cycle goes where a decoding thread holds its own locks."""
    program = f"""
import gc, threading
from pathlib import Path
from fusion_engine.audio import ahead
paths = [Path(p) for p in {[str(p) for p in clips]}]
proceed, decoding, init = threading.Event(), ahead.Decoding, ahead._Job.__init__
ahead.Decoding = lambda path, rate, **options: (
    (path == paths[0] or proceed.wait()) and decoding(path, rate, **options)
)
# Made with the lock held.
ahead._Job.__init__ = lambda job, path: (gc.collect(), init(job, path))[1]
box = [ahead.decode_ahead(paths, 16_000, workers=1, ahead=2)]
gc.disable()
next(next(box[0]))
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
    results = list(taken(decode_ahead(paths, RATE, workers=4, ahead=2)))
    assert [path for path, _ in results] == paths
    assert all(isinstance(result, AudioError) for _, result in results)


def test_where_no_thread_can_start(clips, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    results = list(taken(decode_ahead(clips, RATE)))
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
    results = list(taken(decode_ahead(clips, RATE, workers=3, ahead=4)))
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
    print(sum(decoded.recording().samples.size > 0 for decoded in decode_ahead(paths, 16_000)))
{when}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("9\n", "")
