"""CUDA graphs around PyTorch's network: the same bits as without one, whoever records them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ... import signals
from .torch_network import open_with_torch, write_weights

pytestmark = pytest.mark.gpu

RATE = 16_000
SHAPES = [(1, 1.0), (1, 10.0), (8, 1.0), (64, 0.5)]


def noise(batch, seconds, seed=0):
    clips = [signals.noise(seconds, RATE, seed + row) for row in range(batch)]
    return clips[0] if batch == 1 else np.stack(clips)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("torch") / "cnn14.onnx", "cnn14")


@pytest.fixture(params=[False, True], ids=["heuristic", "search"])
def opened(request, path, monkeypatch):
    """Opens it, with cuDNN's choice by heuristics or by timing, which each thread does anew."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", request.param)
    return lambda **options: open_with_torch(path, "fp16", **options)


@pytest.mark.parametrize(("batch", "seconds"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_a_graph_gives_the_bits_of_the_run_before(opened, batch, seconds, dtype):
    one, other = (noise(batch, seconds, seed) for seed in (0, 100))
    if dtype is np.int16:
        one, other = (np.round(x * 32_767).astype(np.int16) for x in (one, other))
    with opened() as engine:
        first, before = engine.embed(one), engine.stats.uncaptured_runs
        assert before == 1
        for _ in range(3):
            assert np.array_equal(engine.embed(one), first)
            assert not np.array_equal(engine.embed(other), first)
        assert engine.stats.graphs == 1
        assert engine.stats.uncaptured_runs == before


def test_a_thread_records_what_another_ran_first(opened):
    x = noise(1, 1.0)
    with opened() as engine, ThreadPoolExecutor(1) as pool:
        expected = engine.embed(x)
        for _ in range(3):
            worst = np.abs(pool.submit(engine.embed, x).result() - expected).max()
            assert worst <= 5e-3 * np.abs(expected).max()  # another thread's kernels
        assert (engine.stats.graphs, engine.stats.uncaptured_runs) == (1, 1)


def test_a_list_of_lengths_keeps_its_order(opened):
    clips = [noise(1, (1.0, 0.4, 2.0, 0.77)[seed % 4], seed) for seed in range(40)]
    with opened() as engine:
        alone = np.stack([engine.embed(x) for x in clips])
        for _ in range(3):
            got = engine.embed(clips)
            for row, embedding in enumerate(got):  # the nearest one is its own
                distances = np.abs(alone - embedding).max(axis=1)
                assert distances.argmin() == row
                assert distances[row] <= 5e-3 * np.abs(alone).max()


def test_slots_that_make_room_are_captured_again(opened):
    shapes = [noise(8, seconds) for seconds in (1.0, 2.0)]
    with opened() as engine:
        alone = [engine.embed(x) for x in shapes]
        most = engine.stats.device_bytes
    with opened(memory_limit=most * 3 // 4) as engine:
        for _ in range(3):
            for x, expected in zip(shapes, alone, strict=True):
                before = engine.stats.uncaptured_runs
                for _ in range(3):
                    assert np.array_equal(engine.embed(x), expected)
                assert engine.stats.uncaptured_runs == before + 1


def test_other_work_of_pytorchs_does_not_touch_a_graphs_memory(opened):
    """Its pool is its own: tensors that come and go, and an emptied cache, are elsewhere."""
    x = noise(8, 1.0)
    with opened() as engine:
        for _ in range(2):
            expected = engine.embed(x)
        for size in (1 << 12, 1 << 20, 1 << 26):
            torch.cuda.empty_cache()
            hogs = [torch.full((size,), float("nan"), device="cuda") for _ in range(8)]
            torch.cuda.synchronize()
            assert np.array_equal(engine.embed(x), expected)
            assert all(bool(hog.isnan().all()) for hog in hogs)
