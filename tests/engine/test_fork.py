"""An engine in forked processes, and pickled into others; every wait has an end."""

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

import fusion_engine as fe

from .cuda.artifacts import CHUNKED, PADDED, write_artifact

CLIPS = np.random.default_rng(0).normal(0, 0.1, (4, 16_000)).astype(np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_artifact(tmp_path_factory.mktemp("fork") / "chunked.onnx", CHUNKED)


@pytest.fixture
def engine(path):
    with fe.Engine(path, device="cpu", threads=2) as engine:
        yield engine


def in_child(function, *, leave=os._exit, seconds=60.0):
    """Run ``function`` in a forked process, which must end in time and well."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        leave(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "it hangs"


def test_a_forked_process_gives_the_same_bits(engine):
    expected = engine.embed(CLIPS)  # its pools have threads now

    def child():
        assert np.array_equal(engine.embed(CLIPS), expected)
        assert engine.embed_frames(CLIPS[0]).shape == (engine.embedding_dim, 25)
        assert engine.stats.clips == 2 * len(CLIPS) + 1
        # And once more, from there.
        assert in_child(lambda: np.testing.assert_array_equal(engine.embed(CLIPS), expected)) == 0

    assert in_child(child) == 0
    assert np.array_equal(engine.embed(CLIPS), expected)


def test_a_forked_process_ends_as_any_other(engine):
    """Freed at exit, ONNX Runtime waits for threads that are not there."""
    engine.embed(CLIPS)
    program = f"""
import os, sys, time
import numpy as np
import fusion_engine as fe
engine = fe.Engine({os.fspath(engine._path)!r}, device="cpu", threads=2)
clips = np.ones((4, 16000), np.float32)
engine.embed(clips)
for use in (False, True):
    pid = os.fork()
    if pid == 0:
        if use:
            engine.embed(clips)
            engine.close()
        sys.exit(7)
    end = time.monotonic() + 30
    while not (done := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.02)
    if not done[0]:
        os.kill(pid, 9)
    print(use, done[0] == pid and os.waitstatus_to_exitcode(done[1]))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout.splitlines() == ["False 7", "True 7"], run.stderr


def test_locks_that_were_held_at_the_fork(engine):
    expected = engine.embed(CLIPS)
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            engine.embed(CLIPS)

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            child = lambda: np.testing.assert_array_equal(engine.embed(CLIPS), expected)  # noqa: E731
            assert in_child(child) == 0
        with engine._meter._lock:
            assert in_child(child) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_threads_of_a_child_open_it_once(engine, monkeypatch):
    expected = engine.embed(CLIPS)

    def child():
        from fusion_engine.engine import onnx

        opened = []
        session = onnx.OnnxSession
        monkeypatch.setattr(
            onnx, "OnnxSession", lambda *a, **k: opened.append(1) or session(*a, **k)
        )
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(engine.embed(CLIPS))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(opened) == 1
        assert all(np.array_equal(result, expected) for result in results)

    assert in_child(child) == 0


def test_another_file_in_its_place_is_not_opened_in_the_child(tmp_path):
    path = write_artifact(tmp_path / "a.onnx", CHUNKED)
    engine = fe.Engine(path, device="cpu")
    engine.embed(CLIPS)
    write_artifact(tmp_path / "b.onnx", CHUNKED, bias=1.0).replace(path)

    def child():
        with pytest.raises(fe.BackendError, match=r"a\.onnx is not the file any more"):
            engine.embed(CLIPS)

    assert in_child(child) == 0


def test_multiprocessing_by_fork(engine):
    expected = engine.embed(CLIPS)
    INHERITED.append(engine)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for got in pool.map_async(_embed_inherited, range(4)).get(timeout=60):
            assert np.array_equal(got, expected)


INHERITED = []


def _embed_inherited(_):
    return INHERITED[-1].embed(CLIPS)


def test_a_pickled_engine_opens_the_same_file_elsewhere(tmp_path, monkeypatch):
    path = write_artifact(tmp_path / "padded.onnx", PADDED)
    monkeypatch.chdir(tmp_path)
    engine = fe.Engine(path.name, device="cpu", threads=1, normalization=(-3.0, 2.0))
    expected = engine.embed(CLIPS)
    data = pickle.dumps(engine)
    assert len(data) < 1000
    monkeypatch.chdir("/")
    again = pickle.loads(data)
    assert np.array_equal(again.embed(CLIPS), expected)
    assert repr(again) == repr(engine)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert np.array_equal(pool.submit(engine.embed, CLIPS).result(timeout=120), expected)
    engine.close()
    with pytest.raises(fe.BackendError, match="was closed"):
        pickle.dumps(engine)


def test_a_pickled_engine_says_that_its_file_is_gone(tmp_path):
    path = write_artifact(tmp_path / "a.onnx", CHUNKED)
    data = pickle.dumps(fe.Engine(path, device="cpu", warmup=iter([(1, 0.5)])))
    assert pickle.loads(data).stats.clips == 1  # warm again
    path.unlink()
    with pytest.raises(fe.ArtifactError, match="no such file"):
        pickle.loads(data)


def test_copies_are_the_engine_itself(engine):
    assert copy.copy(engine) is engine
    assert copy.deepcopy({"engine": engine})["engine"] is engine
