"""Lists keep several runs in flight: how many, in which order, and what an error leaves behind."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fusion_engine as fe
from fusion_engine.engine.cuda.batch import BatchProgram

from .test_runner import noise, pcm

# Seven shapes, with two clips of one of them, and one longer than a run takes.
SECONDS = [0.5, 1.0, 1.5, 2.0, 1.0, 2.5, 7.0, 3.0, 3.5]


@pytest.fixture
def flights(monkeypatch):
    """How many runs were in flight after each start and each finish."""
    counts = [0]

    def spy(name, step):
        method = getattr(BatchProgram, name)

        def spied(self, *arguments):
            counts.append(counts[-1] + step)
            return method(self, *arguments)

        monkeypatch.setattr(BatchProgram, name, spied)

    spy("start", 1)
    spy("finish", -1)
    return counts


def clips():
    return [noise(seconds, seed) for seed, seconds in enumerate(SECONDS)]


@pytest.mark.parametrize("contexts", [1, 2, 3])
def test_a_list_takes_all_contexts_and_keeps_its_order(open_plan, flights, contexts):
    with open_plan("chunked", contexts=contexts) as engine:
        alone = [engine.embed(x) for x in clips()]
        flights[:] = [0]
        for _ in range(3):  # as they are, while graphs are recorded, and as graphs
            got = engine.embed(clips())
            assert all(np.array_equal(a, b) for a, b in zip(got, alone, strict=True))
            assert flights[-1] == 0
        assert max(flights) == contexts
        # Nothing is in flight beside the clip that takes several runs.
        assert flights.count(0) > 3
        assert engine.stats.runs > engine.stats.uncaptured_runs


def test_memory_for_one_run_is_enough(machine, open_plan, flights):
    with open_plan("chunked") as engine:
        alone = [engine.embed(x) for x in clips()]
        largest = max(size for _, size in machine.blocks.values())
    flights[:] = [0]
    with open_plan("chunked", memory_limit=largest + largest // 4, contexts=8) as engine:
        got = engine.embed(clips())
        assert all(np.array_equal(a, b) for a, b in zip(got, alone, strict=True))
        assert engine.stats.device_bytes <= largest + largest // 4
    assert 1 <= max(flights) < 8


def test_many_lists_at_once_do_not_wait_for_each_other(open_plan):
    with open_plan("chunked", contexts=2) as engine:
        expected = engine.embed(clips())
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(engine.embed, clips()) for _ in range(12)]
            assert all(np.array_equal(f.result(timeout=60), expected) for f in found)


def test_a_bad_clip_leaves_the_others_their_results(open_plan):
    x = clips()
    x[3][100] = np.nan
    with open_plan("chunked", contexts=2) as engine:
        for _ in range(3):
            with pytest.raises(fe.AudioError, match=r"clip 3: .*nan"):
                engine.embed(x)
            found = {key: result for key, _, _, result in engine.embed_stream(enumerate(x))}
            assert [k for k, r in found.items() if isinstance(r, fe.AudioError)] == [3]
            assert np.array_equal(found[4], engine.embed(x[4]))


@pytest.mark.parametrize("fails", ["cuMemcpyHtoDAsync", "cuGraphLaunch", "cuStreamSynchronize"])
def test_a_run_that_fails_ends_those_in_flight(open_plan, flights, fails):
    x = [pcm(seconds) for seconds in SECONDS[:4]]
    with open_plan("chunked", contexts=2) as engine:
        for _ in range(2):
            expected = engine.embed(x)
        native = engine._runner._cuda.driver
        flights[:] = [0]
        native.fails = fails
        with pytest.raises(fe.BackendError, match="cuda:0 failed"):
            engine.embed(x)
        native.fails = None
        assert engine._runner._slots._leased == 0
        np.testing.assert_array_equal(engine.embed(x), expected)
