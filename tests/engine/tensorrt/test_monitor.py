"""Stopping a build, wherever Ctrl-C finds the main thread."""

import threading

import pytest

from fusion_engine.engine.tensorrt.monitor import run_cancellable


def test_ctrl_c_while_the_thread_starts_waits_for_its_end(monkeypatch):
    begun, ended = threading.Event(), threading.Event()

    def work(cancelled):
        begun.set()
        cancelled.wait(10)
        ended.set()

    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        assert begun.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_cancellable(work)
    assert ended.is_set()


def test_ctrl_c_before_the_thread_starts_runs_nothing(monkeypatch):
    def interrupted(thread):
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_cancellable(lambda cancelled: pytest.fail("it ran"))


def test_the_works_answer_and_error_are_passed_on():
    assert run_cancellable(lambda cancelled: 7) == 7
    with pytest.raises(ZeroDivisionError):
        run_cancellable(lambda cancelled: 1 // 0)
