"""Clips of many runs, on the double: what waits for what, and where a run's input lies."""

from dataclasses import replace

import numpy as np
import pytest

import fusion_engine as fe
from fusion_engine.engine.cuda.driver import Stream

from .artifacts import CHUNKED, write_artifact
from .test_arrays import on_gpu
from .test_runner import assert_close, noise


@pytest.fixture
def waits_of_host(monkeypatch):
    """How often the host waits for a stream."""
    counts = []
    synchronize = Stream.synchronize

    def counted(self):
        counts.append(self)
        synchronize(self)

    monkeypatch.setattr(Stream, "synchronize", counted)
    return counts


@pytest.mark.parametrize("wrap", [np.asarray, on_gpu])
def test_the_host_does_not_wait_between_runs(open_plan, waits_of_host, wrap):
    """More runs take no more waits."""
    with open_plan("chunked") as engine:
        waits = []
        for seconds in (20.0, 20.0, 60.0):
            waits_of_host.clear()
            runs = engine.stats.runs
            engine.embed(wrap(noise(seconds)))
            waits.append((engine.stats.runs - runs, len(waits_of_host)))
        (_, _), (few, once), (many, twice) = waits
        assert many > 2 * few
        assert twice <= once + 2 <= 8


def test_each_run_adds_to_what_the_one_before_left(machine, open_plan, artifact):
    """Also where they went to different slots, whose streams know nothing of each other."""
    x = noise(30.0)
    with open_plan("chunked", contexts=2) as engine:
        pool = engine._runner._slots
        lease = type(pool).lease
        kept = []

        def another_slot(key, bind):
            # As if another call had taken the slot of the run before.
            if len(kept) < 3:
                kept.extend(pool._idle)
                pool._idle.clear()
            return lease(pool, key, bind)

        pool.lease = another_slot
        machine.waits.clear()
        got = engine.embed(x)
        pool._idle.extend(kept)
        assert_close(got, fe.Engine(artifact("chunked"), device="cpu").embed(x))
        assert len({slot.stream.handle for slot in pool._idle}) > 1
        # Each run after the first, and the reading of the result.
        assert len(machine.waits) >= engine.stats.runs


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_frame_of_any_size_leaves_the_input_aligned(open_plan, tmp_path, dtype):
    """Of 80 mel bins: the network's double refuses an address that is no multiple of 256."""
    front = replace(CHUNKED.frontend, n_mels=80)
    layers = tuple(replace(layer, freq=layer.freq * 80 // 64) for layer in CHUNKED.layers)
    dim = sum(layer.dim for layer in layers)
    spec = replace(CHUNKED, model="other", frontend=front, layers=layers, embedding_dim=dim)
    path = write_artifact(tmp_path / "other.onnx", spec)
    x = noise(20.0)
    with open_plan(path, trt={"dtype": dtype}) as engine:
        assert_close(engine.embed(x), fe.Engine(path, device="cpu").embed(x), dtype)
