"""Which clips share a batch."""

import asyncio
import threading

import pytest

from fusion_engine.serve import Batching
from fusion_engine.serve.batcher import Batcher

# Beyond any test, so that only a full batch is due.
LONG = 1_000.0


def run_all(clips, batching, run=None, **options):
    """What each clip gave, and the batches in the order in which they were run."""
    batches = []

    def default(batch):
        batches.append(list(batch))
        return [f"{clip}!" for clip in batch]

    async def main():
        batcher = Batcher(run or default, len, batching, **options)
        return await asyncio.gather(*map(batcher.submit, clips), return_exceptions=True)

    return asyncio.run(main()), batches


def test_equal_lengths_share_a_batch():
    clips = ["a", "bb", "c", "dd", "e", "ff"]
    results, batches = run_all(clips, Batching(clips=3, wait_seconds=LONG))
    assert sorted(batches) == [["a", "c", "e"], ["bb", "dd", "ff"]]
    assert [result.result for result in results] == [f"{clip}!" for clip in clips]
    # Once for each batch.
    assert sorted(result.batch for result in results) == [0, 0, 0, 0, 3, 3]


def test_what_is_not_full_is_due_after_its_wait():
    results, batches = run_all(["a", "bb", "c"], Batching(clips=8, wait_seconds=0.001))
    assert sorted(batches) == [["a", "c"], ["bb"]]
    assert [result.batch for result in results] == [2, 1, 0]


def test_no_batch_is_larger_than_allowed():
    _, batches = run_all("abcdefghij", Batching(clips=4, wait_seconds=0.001))
    assert sorted(map(len, batches)) == [2, 4, 4]


def test_batches_grow_while_the_engine_is_busy():
    """Those that are due before a thread is free run together."""
    batches, go_on = [], threading.Event()

    def run(batch):
        batches.append(list(batch))
        assert go_on.wait(60)
        return batch

    async def main():
        batcher = Batcher(run, len, Batching(clips=16, wait_seconds=1e-4))
        tasks = [asyncio.create_task(batcher.submit("a"))]
        while not batches:
            await asyncio.sleep(0.001)
        for clip in "bcd":
            tasks.append(asyncio.create_task(batcher.submit(clip)))
            await asyncio.sleep(0.005)
        go_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert batches == [["a"], ["b", "c", "d"]]


def test_an_error_is_that_of_its_batch_only():
    def run(batch):
        if "bb" in batch:
            raise MemoryError
        return batch

    results, _ = run_all(["a", "bb", "cc", "d"], Batching(clips=2, wait_seconds=LONG), run)
    assert [type(result) for result in results[1:3]] == [MemoryError, MemoryError]
    assert [results[0].result, results[3].result] == ["a", "d"]


def test_a_clip_that_nobody_waits_for_is_not_run():
    batches = []

    def run(batch):
        batches.append(list(batch))
        return batch

    async def main():
        batcher = Batcher(run, len, Batching(clips=3, wait_seconds=LONG))
        tasks = [asyncio.create_task(batcher.submit(clip)) for clip in "ab"]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        assert (await batcher.submit("c")).result == "c"
        assert (await tasks[1]).result == "b"

    asyncio.run(main())
    assert batches == [["b", "c"]]


@pytest.mark.parametrize(
    "wrong", [{"clips": 0}, {"wait_seconds": 0}, {"wait_seconds": float("nan")}]
)
def test_options_out_of_range(wrong):
    with pytest.raises(ValueError, match="expected more than 0"):
        Batching(**wrong)
