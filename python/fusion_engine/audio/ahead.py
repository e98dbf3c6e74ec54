"""Decode files in threads, ahead of whoever consumes them."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .._cpus import usable_cpus
from ..errors import AudioError
from . import sample_source
from .decode import Decoding
from .files import TOO_LARGE, collect
from .recording import Channel, Recording

Block = NDArray[np.float32]


class _Job:
    """A file that is being decoded, block by block, by whichever thread comes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blocks = deque[Block]()
        self.held = 0
        self.running = self.finished = False
        self.decoding: Decoding | None = None
        self.failure: BaseException | None = None
        self._blocks: Iterator[Block] | None = None

    def step(self, open_one: Callable[[Path], Decoding]) -> Block | None:
        """The next block; None after the last."""
        try:
            if self.decoding is None:
                self.decoding = open_one(self.path)
                self._blocks = iter(self.decoding)
            assert self._blocks is not None
            return next(self._blocks, None)
        except MemoryError as error:
            raise AudioError(
                f"{self.path}: does not fit into memory; split it, or give the program more memory",
                kind=TOO_LARGE,
            ) from error
        finally:
            sample_source.waiting_for(None)

    def close(self) -> None:
        self.blocks.clear()
        if self.decoding is not None:
            self.decoding.close()


class Decoded:
    """One file of ``decode_ahead``: iterate once, for its blocks [n, ``width``] of float32.

    Attributes:
        path: of the file.

    Raises:
        AudioError: see ``load``; while iterating.
    """

    def __init__(self, owner: "DecodeAhead", job: _Job) -> None:
        self.path = job.path
        self._owner, self._job = owner, job

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Block:
        return self._owner._next_block(self._job)

    @property
    def decoding(self) -> Decoding:
        """What is known of it once the first block is there; its flags are final after the last."""
        assert self._job.decoding is not None
        return self._job.decoding

    def recording(self) -> Recording:
        """The whole file.

        Raises:
            AudioError: see ``load``.
        """
        first = next(self)
        return collect(self.decoding, chain([first], self))


class DecodeAhead:
    """The files of ``decode_ahead`` being decoded, or decoded and not yet taken, in order.

    No thread ever waits for room in here: the end of a block and every ``next`` start what there
    is room for. So no thread is left hanging when the consumer stops, not even at exit.

    No generator: one that is abandoned is finalised in whatever thread collects garbage, and if
    that is one of these, holding their locks, there it would wait for itself.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        open_one: Callable[[Path], Decoding],
        workers: int,
        ahead: int,
        max_samples: int,
    ) -> None:
        self._todo = deque(paths)
        self._open = open_one
        self._workers, self._ahead, self._max_samples = workers, ahead, max_samples
        self._threads = set[threading.Thread]()
        self._closed = False
        self._changed = threading.Condition(threading.Lock())
        self._window = deque[_Job]()
        self._taken: _Job | None = None
        self._running = 0

    def _next_job(self) -> _Job | None:
        """The earliest file that there is room to go on with, marked; with the lock held."""
        if self._closed or self._running >= self._workers:
            return None
        held = 0
        for job in self._window:
            if held + job.held < self._max_samples and not job.running and not job.finished:
                return self._started(job)
            held += job.held
        if self._todo and len(self._window) < self._ahead and held < self._max_samples:
            self._window.append(_Job(self._todo.popleft()))
            return self._started(self._window[-1])
        return None

    def _started(self, job: _Job) -> _Job:
        job.running = True
        self._running += 1
        return job

    def _fill(self) -> None:
        """Start threads for what there is room for; with the lock held."""
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        while (job := self._next_job()) is not None:
            thread = threading.Thread(
                target=self._work, args=(job,), name=f"fusion_engine-decode-{self._running}"
            )
            self._threads.add(thread)
            try:
                thread.start()
            except RuntimeError:
                # No more threads, or the interpreter is shutting down: the consumer decodes.
                self._threads.discard(thread)
                job.running = False
                self._running -= 1
                return

    def _work(self, first: _Job) -> None:
        """Decode while there is room; a thread's life."""
        job: _Job | None = first
        while job is not None:
            job = self._decode(job, go_on=True)

    def _decode(self, job: _Job, *, go_on: bool) -> _Job | None:
        """Decode one block; to ``go_on``, the next job that this thread must do."""
        block: Block | None = None
        failure: BaseException | None = None
        try:
            block = job.step(self._open)
        except BaseException as error:
            failure = error
        with self._changed:
            self._running -= 1
            job.running = False
            if block is None:
                job.finished, job.failure = True, failure
            else:
                job.blocks.append(block)
                job.held += block.size
            left = job is not self._taken and job not in self._window
            following = self._next_job() if go_on else None
            self._fill()
            self._changed.notify_all()
        if left or self._closed:
            job.close()  # nobody wants the rest
        return following

    def _next_block(self, job: _Job) -> Block:
        """The next block of the file that was taken last, waited for."""
        while True:
            with self._changed:
                if job is not self._taken:
                    raise StopIteration
                if job.blocks:
                    block = job.blocks.popleft()
                    job.held -= block.size
                    self._fill()
                    return block
                if job.finished:
                    break
                self._fill()
                if job.running:
                    self._changed.wait()
                    continue
                self._started(job)
            # No thread could be started for it.
            self._decode(job, go_on=False)
        if job.failure is None:
            raise StopIteration
        if not isinstance(job.failure, AudioError):
            self.close()
        raise job.failure

    def add(self, path: Path) -> None:
        """One more file, after the others."""
        with self._changed:
            self._todo.append(path)
            self._fill()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Decoded:
        """The next file in order; what is left of the one before is dropped."""
        with self._changed:
            left = self._window.popleft() if self._taken is not None else None
            self._taken = None
            if not self._window and self._todo and not self._closed:
                self._window.append(_Job(self._todo.popleft()))
            self._taken = self._window[0] if self._window else None
            self._fill()
            unused = left is not None and not left.running
        if left is not None and unused:
            left.close()
        if self._taken is None:
            self.close()
            raise StopIteration
        return Decoded(self, self._taken)

    def close(self) -> None:
        """Start nothing more, break off the decodes under way and wait for their threads."""
        if threading.current_thread() in self._threads:
            # A generator that was abandoned is being finalised here, maybe with the lock held.
            self._closed = True
            return
        with self._changed:
            self._closed = True
            threads = list(self._threads)
            self._todo.clear()
        sample_source.interrupt(threads)
        for thread in threads:
            if thread.ident is not None:  # a signal may have come before it started
                thread.join()
        with self._changed:
            jobs, self._taken = list(self._window), None
            self._window.clear()
        for job in jobs:
            job.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def decode_ahead(
    paths: Iterable[Path],
    sample_rate: int,
    *,
    channel: Channel = "mix",
    partial: bool = False,
    workers: int | None = None,
    ahead: int = 64,
    max_samples: int = 2**23,
) -> DecodeAhead:
    """Decode files in a pool of threads; the decoders and soxr release the GIL.

    Args:
        paths: files.
        sample_rate: the rate wanted, in Hz.
        channel: see ``load``.
        partial: see ``load``.
        workers: threads; the CPUs of this process, at most 8, when not given.
        ahead: the most files decoded, or being decoded, and not yet consumed.
        max_samples: no file is gone on with while it and those before it have so many samples
            that wait for the consumer (2**23 float32 samples are 32 MiB). So the file that is
            being read is not held up by those after it, and at most twice as many wait in all.

    Returns:
        An iterator of ``Decoded`` in the order of ``paths``, and a context manager. Closing it
        early breaks off the decodes under way and starts no others.

    Raises:
        ValueError: ``workers``, ``ahead`` or ``max_samples`` below 1.
    """
    if workers is None:
        workers = min(8, usable_cpus())
    if min(workers, ahead, max_samples) < 1:
        raise ValueError(
            f"workers, ahead and max_samples are {workers}, {ahead} and {max_samples}, expected "
            "at least 1 each"
        )

    def open_one(path: Path) -> Decoding:
        return Decoding(path, sample_rate, channel=channel, partial=partial)

    return DecodeAhead(paths, open_one, workers, ahead, max_samples)
