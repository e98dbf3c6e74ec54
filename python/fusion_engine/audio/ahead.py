"""Decode files in threads, ahead of whoever consumes them."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from .._cpus import usable_cpus
from ..errors import AudioError
from .files import load
from .recording import Channel, Recording
from .source import interrupt

Decoded = Recording | AudioError


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # `load` will report it


class _Job(NamedTuple):
    path: Path
    size: int
    future: Future[Decoded]


class DecodeAhead:
    """The files of ``decode_ahead`` being decoded, or decoded and not yet taken, in order.

    No thread ever waits for room in here: the end of a decode and every ``next`` start what there
    is room for. So no thread is left hanging when the consumer stops, not even at exit.

    No generator: one that is left behind is finalised in whatever thread collects garbage, and if
    that is one of these, holding their locks, there it would wait for itself.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        load_one: Callable[[Path], Recording],
        workers: int,
        ahead: int,
        max_samples: int,
    ) -> None:
        self._todo = deque(paths)
        self._load = load_one
        self._workers, self._ahead, self._max_samples = workers, ahead, max_samples
        self._threads = set[threading.Thread]()
        self._closed = False
        self._lock = threading.Lock()
        self._window: deque[tuple[Path, Future[Decoded]]] = deque()
        self._running = 0
        # Samples that wait for the consumer, and bytes of the files being decoded: a byte of audio
        # is seldom much more than a sample at a model's rate, so they add up to a fair bound.
        self._held = self._coming = 0

    def _next_job(self) -> _Job | None:
        """A decode that there is room for, in the window; with the lock held."""
        if (
            self._todo
            and not self._closed
            and self._running < self._workers
            and len(self._window) < self._ahead
            # True of an empty window, so one is always taken, however long it may be.
            and self._held + self._coming < self._max_samples
        ):
            job = _Job(self._todo[0], _file_size(self._todo[0]), Future())
            self._todo.popleft()
            self._running += 1
            self._coming += job.size
            self._window.append((job.path, job.future))
            return job
        return None

    def _fill(self) -> None:
        """Start threads for the decodes that there is room for; with the lock held."""
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        while (job := self._next_job()) is not None:
            thread = threading.Thread(
                target=self._work, args=(job,), name=f"fusion_engine-decode-{self._running}"
            )
            self._threads.add(thread)
            try:
                thread.start()
            except RuntimeError:
                # No more threads, or the interpreter is shutting down: `next` decodes it.
                self._threads.discard(thread)
                self._window.pop()
                self._running -= 1
                self._coming -= job.size
                self._todo.appendleft(job.path)
                return

    def _work(self, first: _Job) -> None:
        """Decode while there is room; a thread's life."""
        job: _Job | None = first
        while job is not None:
            job = self._decode(job, go_on=True)

    def _decode(self, job: _Job, *, go_on: bool) -> _Job | None:
        """Decode one file; to ``go_on``, the next that this thread must do."""
        result: Decoded | None = None
        failure: BaseException | None = None
        try:
            result = self._load(job.path)
        except AudioError as error:
            result = error
        except BaseException as error:
            failure = error
        # Before the result can be seen, so that `next` finds the books balanced.
        with self._lock:
            self._running -= 1
            self._coming -= job.size
            self._held += _samples(result)
            following = self._next_job() if go_on else None
            self._fill()
        if failure is not None:
            job.future.set_exception(failure)
        elif result is not None:
            job.future.set_result(result)
        return following

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Path, Decoded]:
        """The next file in order, waited for."""
        with self._lock:
            self._fill()
            # Something is to be done, and no thread could be started for it.
            job = None if self._window else self._next_job()
            first = self._window[0] if self._window else None
        if first is None:
            self.close()
            raise StopIteration
        if job is not None:
            self._decode(job, go_on=False)
        path, future = first
        try:
            result = future.result()
        except BaseException:
            self.close()
            raise
        with self._lock:
            self._window.popleft()
            self._held -= _samples(result)
            self._fill()
        return path, result

    def close(self) -> None:
        """Start nothing more, break off the decodes under way and wait for their threads."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
            self._todo.clear()
        interrupt(threads)
        for thread in threads:
            if thread.ident is not None:  # a signal may have come before it started
                thread.join()
        with self._lock:
            self._window.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _samples(result: Decoded | None) -> int:
    return result.samples.size if isinstance(result, Recording) else 0


def decode_ahead(
    paths: Iterable[Path],
    sample_rate: int,
    *,
    channel: Channel = "mix",
    partial: bool = False,
    workers: int | None = None,
    ahead: int = 64,
    max_samples: int = 2**25,
) -> DecodeAhead:
    """``load`` every path in a pool of threads; the decoders and soxr release the GIL.

    Args:
        paths: files.
        sample_rate: the rate wanted, in Hz.
        channel: see ``load``.
        partial: see ``load``.
        workers: threads; the CPUs of this process, at most 8, when not given.
        ahead: the most files decoded, or being decoded, and not yet consumed.
        max_samples: no decode is started while this many samples wait for the consumer or, at
            one byte each, are being decoded (2**25 float32 samples are 128 MiB). A longer file
            is decoded alone.

    Returns:
        An iterator of ``(path, Recording or AudioError)`` in the order of ``paths``, and a
        context manager. Closing it early breaks off the decodes under way and starts no others.

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

    def load_one(path: Path) -> Recording:
        return load(path, sample_rate, channel=channel, partial=partial)

    return DecodeAhead(paths, load_one, workers, ahead, max_samples)
