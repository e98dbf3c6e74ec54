"""Clips of many requests become batches of one frame count, each of which one run takes."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from .options import Batching


class Batched(NamedTuple):
    """What became of a clip.

    Attributes:
        result: as ``run`` gave it.
        batch: how many clips the batch had that began with this one; 0: it began with another.
    """

    result: Any
    batch: int


class _Waiting(NamedTuple):
    clip: Any
    future: "asyncio.Future[Batched]"


class Batcher:
    """Collects clips while others are run; for one event loop.

    A batch is due when it is full, or its first clip has waited long enough. It goes on growing
    until a thread is free, so that a busy replica makes larger batches by itself.

    Args:
        run: clips to as many results, in a thread.
        key: clips with equal ones share a batch.
        batching: how large a batch is, and how long it waits.
        at_once: batches that are run at the same time.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Any]], Sequence[Any]],
        key: Callable[[Any], int],
        batching: Batching,
        at_once: int = 1,
    ) -> None:
        self._run, self._key, self._batching = run, key, batching
        self._groups: dict[int, deque[_Waiting]] = {}
        self._due = OrderedDict[int, None]()
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._free = at_once
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="fusion_engine-serve-run")
        self._tasks = set[asyncio.Task[None]]()

    async def submit(self, clip: Any) -> Batched:
        """Run a clip with others.

        Raises:
            Exception: whatever ``run`` raised of its batch.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(clip, loop.create_future())
        key = self._key(clip)
        group = self._groups.setdefault(key, deque())
        group.append(waiting)
        if len(group) >= self._batching.clips:
            self._is_due(key)
        elif key not in self._due and key not in self._timers:
            wait = self._batching.wait_seconds
            self._timers[key] = loop.call_later(wait, self._is_due, key)
        return await waiting.future

    def _is_due(self, key: int) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._due.setdefault(key)
        self._start()

    def _start(self) -> None:
        """Begin the batches that are due, as far as threads are free."""
        while self._free and self._due:
            key, _ = self._due.popitem(last=False)
            group, batch = self._groups[key], list[_Waiting]()
            while group and len(batch) < self._batching.clips:
                waiting = group.popleft()
                # A request that was given up takes no part.
                if not waiting.future.done():
                    batch.append(waiting)
            if group:
                self._due[key] = None  # after the others
            else:
                del self._groups[key]
            if batch:
                self._free -= 1
                task = asyncio.get_running_loop().create_task(self._run_batch(batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _run_batch(self, batch: Sequence[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        clips = [waiting.clip for waiting in batch]
        try:
            results = await loop.run_in_executor(self._pool, self._run, clips)
        except Exception as error:
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
        else:
            for place, (waiting, result) in enumerate(zip(batch, results, strict=True)):
                if not waiting.future.done():
                    waiting.future.set_result(Batched(result, 0 if place else len(batch)))
        finally:
            self._free += 1
            self._start()
