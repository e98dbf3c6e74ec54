"""Arrays in page-locked memory, on the double: sent from there, freed with their last view."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fusion_engine as fe

from .double import NativeDriver
from .test_runner import noise, pcm


@pytest.fixture
def sent(monkeypatch):
    """Of each clip of the calls since: whether it was sent from an address in ``sent.array``."""

    class Sent(list):
        array = None

    found = Sent()

    def note(self, target, source, size, stream):
        if found.array is not None:
            begin = found.array.ctypes.data
            found.append(begin <= source < begin + found.array.nbytes)
        return copy(self, target, source, size, stream)

    copy = NativeDriver.copy
    monkeypatch.setattr(NativeDriver, "copy", note)
    return found


@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize("seconds", [1.0, 16_001 / 16_000, 0.05])
def test_it_is_sent_from_where_it_is(open_plan, dtype, seconds, sent):
    """Again and again, and parts of it too; odd rows are not aligned to pairs of samples."""
    make = noise if dtype == "float32" else pcm
    with open_plan("chunked") as engine:
        x = engine.input(3, seconds, dtype=dtype)
        assert (x.shape, x.dtype) == ((3, round(seconds * 16_000)), dtype)
        assert not x.any()
        parts = (x, x[:2], x[1], list(x), [x[0], x[2]], x[::-1], x[1][: len(x[1]) // 2])
        for seed in range(4):
            x[:] = [make(seconds, 10 * seed + row) for row in range(3)]
            for part in parts:
                sent.array = x
                got = engine.embed(part)
                sent.array = None
                clips = part if isinstance(part, list) else [*np.atleast_2d(part)]
                assert sent == [False, *[True] * len(clips)]  # lengths and flags come first
                sent.clear()
                copy = [c.copy() for c in part] if isinstance(part, list) else part.copy()
                assert np.array_equal(got, engine.embed(copy))
        # The same graph takes what is page-locked and what is not.
        assert engine.stats.graphs == len({slot.key for slot in engine._runner._slots._idle})


def test_what_lies_elsewhere_too_is_copied(open_plan, sent):
    with open_plan("chunked") as engine:
        x, y = engine.input(4, 1.0), engine.input(1, 1.0)
        x[:] = [noise(1.0, row) for row in range(4)]
        for part in ([x[0], noise(1.0, 9)], [x[0], y[0]], [x[0], pcm(1.0)], x[:, ::2]):
            expected = engine.embed([clip.copy() for clip in part])
            sent.array = x
            assert np.array_equal(engine.embed(part), expected)
            sent.array = None
            assert sent == [False]
            sent.clear()


def test_bad_samples_are_found_there(open_plan):
    with open_plan("chunked") as engine:
        x = engine.input(2, 1.0)
        for _ in range(3):
            x[1, 7] = np.nan
            with pytest.raises(fe.AudioError, match=r"clip 1: sample 7 is nan"):
                engine.embed(x)
            x[1, 7] = 0.5
            engine.embed(x)


def test_two_threads_with_an_array_each(open_plan):
    with open_plan("chunked", contexts=2) as engine, ThreadPoolExecutor(2) as pool:
        arrays = [engine.input(2, 1.0) for _ in range(2)]
        expected = []
        for seed, x in enumerate(arrays):
            x[:] = [noise(1.0, 2 * seed), noise(1.0, 2 * seed + 1)]
            expected.append(engine.embed(x.copy()))
        for _ in range(10):
            found = list(pool.map(engine.embed, arrays))
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_it_outlives_its_engine(machine, open_plan):
    engine = open_plan("chunked")
    x = engine.input(2, 1.0)
    row = x[1]
    engine.close()
    x[:] = 0.25
    with pytest.raises(fe.BackendError, match="was closed"):
        engine.embed(x)
    with pytest.raises(fe.BackendError, match="was closed"):
        engine.input(1, 1.0)
    assert len(machine.pinned) == 1
    del x
    gc.collect()
    assert len(machine.pinned) == 1
    assert row[0] == 0.25
    del row
    gc.collect()
    assert not machine.pinned


def test_memory_used_again_is_another_array(open_plan):
    with open_plan("chunked") as engine:
        for samples in (16_000, 16_000, 12_000):
            x = engine.input(1, samples / 16_000)
            x[:] = noise(samples / 16_000, samples)
            for _ in range(3):
                assert np.array_equal(engine.embed(x), engine.embed(x.copy()))
            del x


def test_on_a_cpu_it_is_an_ordinary_array(artifact):
    engine = fe.Engine(artifact("chunked"), device="cpu")
    x = engine.input(2, 1.0, dtype="int16")
    assert (x.shape, x.dtype) == ((2, 16_000), np.int16)
    x[:] = [pcm(1.0, 1), pcm(1.0, 2)]
    assert np.array_equal(engine.embed(x), engine.embed(x.copy()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1.0), "batch is 0"),
        ((1, 0.0), "seconds is 0.0"),
        ((1, np.inf), "seconds is inf"),
        ((1, 1.0, "float64"), "dtype is 'float64', expected 'float32' or 'int16'"),
    ],
)
def test_wrong_arguments(open_plan, arguments, message):
    with open_plan("chunked") as engine, pytest.raises(ValueError, match=message):
        engine.input(*arguments[:2], **({"dtype": arguments[2]} if arguments[2:] else {}))
