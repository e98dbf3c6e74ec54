"""Slots and graphs on the double: reuse, bounds, leases, errors, and what is left at the end."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fusion_engine as fe
from fusion_engine.engine.cuda.driver import OutOfMemory

from .test_runner import noise, pcm

LENGTHS = (0.5, 0.8, 1.0, 1.3)


@pytest.fixture(autouse=True)
def nothing_is_left(machine):
    yield
    gc.collect()
    assert not machine.blocks
    assert not machine.pinned
    assert not machine.graphs
    assert not [stream for stream in machine.streams.values() if stream.open]


def test_a_shape_is_recorded_at_its_second_use(open_plan):
    with open_plan("chunked") as engine:
        x, y = noise(1.0, 1), noise(1.0, 2)
        first = engine.embed(x)
        assert engine.stats.graphs == 0
        second = engine.embed(x)
        assert engine.stats.graphs == 1
        assert (engine.stats.runs, engine.stats.uncaptured_runs) == (2, 1)
        assert np.array_equal(first, second)
        other = engine.embed(y)  # the record copies what the caller gives now
        assert not np.array_equal(other, first)
        assert np.array_equal(engine.embed(x), first)
        assert engine.stats.uncaptured_runs == 1


def test_every_option_has_its_own_slot(open_plan):
    """The same number of frames, and another type, batch or head."""
    with open_plan("chunked") as engine:
        calls = [
            lambda: engine.embed(noise(1.0)),
            lambda: engine.embed(pcm(1.0)),
            lambda: engine.embed(noise(1.0), head="max"),
            lambda: engine.embed([noise(1.0), noise(1.0, 1)]),
            lambda: engine.embed([pcm(1.0), noise(1.0, 1)]),
        ]
        alone = [call() for call in calls]
        assert engine.stats.slots == 4  # the last two are one
        for _ in range(2):
            for call, expected in zip(calls, alone, strict=True):
                assert np.array_equal(call(), expected)


def test_shapes_take_turns(open_plan):
    clips = [noise(length, seed) for seed, length in enumerate(LENGTHS)]
    with open_plan("chunked") as engine:
        alone = [engine.embed(x) for x in clips]
        for _ in range(3):
            for x, expected in zip(clips, alone, strict=True):
                assert np.array_equal(engine.embed(x), expected)
        assert engine.stats.graphs == engine.stats.slots == len(LENGTHS)


def test_a_library_that_cannot_be_captured(open_plan):
    with open_plan("chunked", trt={"rtx": True}) as engine:
        expected = engine.embed(noise(1.0))
        engine.embed(noise(1.0))
        assert engine.stats.graphs == 1
    with open_plan("chunked", trt={"rtx": True}) as engine:
        _module(engine).capturable = False
        for _ in range(3):
            assert np.array_equal(engine.embed(noise(1.0)), expected)
        assert engine.stats.graphs == 0
        assert engine.stats.uncaptured_runs == engine.stats.runs == 3


def _module(engine):
    return engine._runner._model.network._library.module


def test_a_capture_that_fails(machine, open_plan, monkeypatch, caplog):
    def broken(self, stream, work):
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    with open_plan("chunked") as engine:
        monkeypatch.setattr(type(engine._runner._cuda), "capture", broken)
        results = [engine.embed(noise(1.0)) for _ in range(3)]
        assert all(np.array_equal(results[0], result) for result in results)
        assert engine.stats.graphs == 0
        assert [r.message for r in caplog.records].count(
            "this shape runs without a CUDA graph: operation not permitted when stream is capturing"
        ) == 1


def test_the_least_recently_used_makes_room(machine, open_plan):
    clips = [noise(length, seed) for seed, length in enumerate(LENGTHS)]
    with open_plan("chunked") as engine:
        alone = [engine.embed(x) for x in clips]
        largest = max(size for _, size in machine.blocks.values())
        everything = engine.stats.device_bytes
    limit = 2 * largest + largest // 2
    assert limit < everything
    with open_plan("chunked", memory_limit=limit) as engine:
        tables = machine.used
        for _ in range(3):
            for x, expected in zip(clips, alone, strict=True):
                assert np.array_equal(engine.embed(x), expected)
                assert engine.stats.device_bytes <= limit
                assert engine.stats.device_bytes == machine.used - tables
        assert 2 <= engine.stats.slots < len(LENGTHS)
        for _ in range(2):  # what was used last is still there
            engine.embed(clips[-1])
        assert engine.stats.graphs >= 1


def test_more_shapes_than_slots(open_plan, monkeypatch):
    monkeypatch.setattr("fusion_engine.engine.cuda.slots.MAX_SLOTS", 2)
    clips = [noise(length, seed) for seed, length in enumerate(LENGTHS)]
    with open_plan("chunked") as engine:
        alone = [engine.embed(x) for x in clips]
        for _ in range(2):
            for x, expected in zip(clips, alone, strict=True):
                for _ in range(3):  # a graph of the shape before is not for this one
                    assert np.array_equal(engine.embed(x), expected)
        assert engine.stats.slots == engine.stats.graphs == 2
        assert _module(engine).contexts == 2


def test_a_limit_that_holds_no_slot(open_plan):
    with open_plan("chunked", memory_limit=2_000_000) as engine:
        with pytest.raises(fe.BackendError, match=r"a batch of 1 clips of 501 .*memory_limit is"):
            engine.embed(noise(5.0))
        assert engine.embed(noise(0.5)).shape == (1280,)


def test_out_of_memory_says_how_to_mend_it_and_leaves_the_engine_usable(machine, open_plan):
    with open_plan("chunked") as engine:
        expected = engine.embed(noise(1.0))
        machine.capacity = machine.used + 500_000
        with pytest.raises(fe.BackendError, match=r"out of device memory: a batch of 8 .*contexts"):
            engine.embed([noise(2.0, seed) for seed in range(8)])
        with pytest.raises(fe.BackendError, match=r"out of device memory: a run of 1 inputs"):
            engine.embed(noise(60.0))
        assert np.array_equal(engine.embed(noise(1.0)), expected)
        machine.capacity = 2**32
        assert len(engine.embed([noise(2.0, seed) for seed in range(8)])) == 8


def test_idle_slots_give_way_before_memory_is_out(machine, open_plan):
    with open_plan("chunked") as engine:
        for length in LENGTHS:
            engine.embed(noise(length))
        machine.capacity = machine.used + 1
        assert engine.stats.slots == len(LENGTHS)
        engine.embed(noise(1.1))
        assert engine.stats.slots == 1


def test_pinned_memory_that_runs_out(open_plan, monkeypatch):
    with open_plan("chunked") as engine:
        expected = engine.embed(noise(1.0))

        def none(self, size):
            raise OutOfMemory(size, "pinned host")

        with monkeypatch.context() as patch:
            patch.setattr(type(engine._runner._cuda), "pinned", none)
            with pytest.raises(fe.BackendError, match="out of pinned host memory"):
                engine.embed(noise(2.0))
        assert np.array_equal(engine.embed(noise(1.0)), expected)
        assert engine.embed(noise(2.0)).shape == expected.shape


def test_a_library_that_fails(open_plan, monkeypatch):
    from .tensorrt_double import Context

    with open_plan("chunked") as engine:
        expected = engine.embed(noise(1.0))
        with monkeypatch.context() as patch:
            patch.setattr(Context, "execute_async_v3", lambda self, handle: False)
            for call in (engine.embed, engine.embed_frames):
                with pytest.raises(fe.BackendError, match="tensorrt double failed to run"):
                    call(noise(0.7))
        with monkeypatch.context() as patch:
            patch.setattr(Context, "set_tensor_address", lambda self, name, address: False)
            with pytest.raises(fe.BackendError, match="refused the address of layer_2"):
                engine.embed(noise(0.7))
        assert np.array_equal(engine.embed(noise(1.0)), expected)


@pytest.mark.parametrize("contexts", [1, 2, 3])
def test_threads_share_the_contexts(contexts, machine, open_plan):
    clips = [noise(LENGTHS[seed % 4], seed) for seed in range(48)]
    with open_plan("chunked", contexts=contexts) as engine:
        _module(engine).delay = 1e-3
        alone = [engine.embed(x) for x in clips]
        machine.most_running = 0
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(engine.embed, clips))
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
        assert machine.most_running == contexts


def test_threads_with_little_memory(machine, open_plan):
    clips = [noise(LENGTHS[seed % 4], seed) for seed in range(32)] + [noise(9.0)]
    with open_plan("chunked") as engine:
        alone = [engine.embed(x) for x in clips]
        largest = max(size for _, size in machine.blocks.values())
    with open_plan("chunked", contexts=4, memory_limit=largest + largest // 3) as engine:
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(engine.embed, clips))
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("seconds", [1.0, 40.0], ids=["one run", "run by run"])
def test_closing_waits_for_the_calls_under_way(seconds, open_plan):
    engine = open_plan("chunked")
    _module(engine).delay = 0.1
    started = threading.Event()

    def call():
        started.set()
        return engine.embed(noise(seconds))

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(call)
        started.wait()
        while not engine.stats.slots and not result.done():
            pass
        engine.close()
        assert np.isfinite(result.result()).all()
    engine.close()
    with pytest.raises(fe.BackendError, match="was closed"):
        engine.embed(noise(1.0))
    assert engine.spec.model == "chunked"
    assert engine.stats.slots == 0


def test_what_fails_while_it_is_opened_leaves_nothing(open_plan, machine):
    with pytest.raises(ValueError, match="does not normalise"):
        open_plan("chunked", normalization=(0.0, 1.0))
    machine.capacity = 1000
    with pytest.raises(fe.BackendError, match="memory"):
        open_plan("chunked")
    machine.capacity = 200_000
    with pytest.raises(fe.BackendError, match="out of device memory"):
        open_plan("chunked", warmup=[(4, 2.0)])


def test_an_engine_that_nobody_closes(open_plan):
    engine = open_plan("chunked")
    engine.embed(noise(1.0))
    del engine  # the fixture sees that all is given back


@pytest.mark.parametrize("slots", [1, 64])
def test_onnx_shapes_take_turns(slots, open_onnx, monkeypatch):
    monkeypatch.setattr("fusion_engine.engine.cuda.slots.MAX_SLOTS", slots)
    clips = [noise(length, seed) for seed, length in enumerate(LENGTHS)]
    with open_onnx("chunked") as engine:
        alone = [engine.embed(x) for x in clips]
        for _ in range(2):
            for x, expected in zip(clips, alone, strict=True):
                assert np.array_equal(engine.embed(x), expected)
        assert engine.stats.slots == min(slots, len(LENGTHS))


def test_onnx_runs_one_at_a_time_on_its_own_stream(open_onnx, machine):
    clips = [noise(LENGTHS[seed % 4], seed) for seed in range(16)]
    with open_onnx("chunked", contexts=3) as engine:
        alone = [engine.embed(x) for x in clips]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(engine.embed, clips))
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
        assert engine.stats.slots == len(LENGTHS)
