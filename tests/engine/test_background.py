"""``embed_async``: futures, their order, errors, cancelling, closing, forks."""

import asyncio
import gc
import os
import threading
import weakref
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest

import fusion_engine as fe
from fusion_engine.engine.background import Background

from .. import signals
from .cuda.artifacts import SPECS, write_artifact


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_artifact(tmp_path_factory.mktemp("artifact") / "a.onnx", SPECS["chunked"])


@pytest.fixture
def engine(path):
    with fe.Engine(path, device="cpu") as engine:
        yield engine


def noise(seconds, seed=0):
    return signals.noise(seconds, 16_000, seed)


def test_the_future_has_what_embed_returns(engine):
    clips = [noise(0.5 + 0.1 * i, i) for i in range(8)]
    futures = [engine.embed_async(clip) for clip in clips]
    futures.append(engine.embed_async(clips, head="max"))
    for clip, future in zip(clips, futures, strict=False):
        assert np.array_equal(future.result(), engine.embed(clip))
    assert np.array_equal(futures[-1].result(), engine.embed(clips, head="max"))


def test_from_asyncio(engine):
    clips = [noise(0.5, seed) for seed in range(4)]

    async def main():
        return await asyncio.gather(*(asyncio.wrap_future(engine.embed_async(x)) for x in clips))

    assert np.array_equal(asyncio.run(main()), engine.embed(clips))


@pytest.mark.parametrize(
    ("audio", "kind"), [(np.full(100, np.nan, np.float32), fe.AudioError), (object(), TypeError)]
)
def test_the_future_has_the_error(engine, audio, kind):
    good, bad = engine.embed_async(noise(0.5)), engine.embed_async(audio)
    with pytest.raises(kind):
        bad.result()
    assert good.result().shape == (1280,)


def test_closing_cancels_what_has_not_begun_and_waits_for_the_rest(path, monkeypatch):
    engine = fe.Engine(path, device="cpu")
    begun, go = threading.Event(), threading.Event()
    embed = type(engine).embed

    def held(self, *arguments, **options):
        begun.set()
        assert go.wait(30)
        return embed(self, *arguments, **options)

    monkeypatch.setattr(type(engine), "embed", held)
    futures = [engine.embed_async(noise(0.5)) for _ in range(3)]
    assert begun.wait(30)
    assert futures[2].cancel()
    closing = threading.Thread(target=engine.close)
    closing.start()
    with pytest.raises(CancelledError):
        futures[1].result(30)
    go.set()
    closing.join(30)
    assert futures[0].result(0).shape == (1280,)
    with pytest.raises(fe.BackendError, match="was closed"):
        engine.embed_async(noise(0.5))


def test_as_many_at_once_as_it_says():
    barrier, over = threading.Barrier(3), threading.Event()
    background = Background(3)
    futures = [background.submit(barrier.wait, 30) for _ in range(3)]
    wait(futures)
    assert sorted(future.result() for future in futures) == [0, 1, 2]
    running = [background.submit(over.wait, 30) for _ in range(4)]
    assert not running[3].running()
    over.set()
    background.close()


def test_an_engine_that_nobody_closes_is_freed(path):
    engine = fe.Engine(path, device="cpu")
    engine.embed_async(noise(0.5)).result()
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None


def test_in_a_forked_process(engine):
    expected = engine.embed_async(noise(0.5)).result()
    child = os.fork()
    if child == 0:
        same = np.array_equal(engine.embed_async(noise(0.5)).result(60), expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
