"""Decode files in threads, ahead of whoever consumes them."""

import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from .._cpus import usable_cpus
from ..errors import AudioError
from .files import Recording, load

Decoded = Recording | AudioError


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # `load` will report it


class DecodeAhead:
    """The files of ``decode_ahead`` being decoded, or decoded and not yet taken, in order.

    No thread ever waits for room in here: the end of a decode and every ``next`` start what there
    is room for. So no thread is left hanging when the consumer stops, not even at exit.

    No generator: one that is left behind is finalised in whatever thread collects garbage, and if
    that is one of these, holding their locks, there it would wait for itself.
    """

    def __init__(
        self, paths: Iterable[Path], sample_rate: int, workers: int, ahead: int, max_samples: int
    ) -> None:
        self._todo = deque(paths)
        self._sample_rate = sample_rate
        self._workers, self._ahead, self._max_samples = workers, ahead, max_samples
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fusion_engine-decode")
        self._lock = threading.Lock()
        self._window: deque[tuple[Path, Future[Decoded]]] = deque()
        self._running = 0
        # Samples that wait for the consumer, and bytes of the files being decoded: a byte of audio
        # is seldom much more than a sample at a model's rate, so they add up to a fair bound.
        self._held = self._coming = 0

    def _fill(self) -> None:
        """Start decodes while there is room; with the lock held."""
        while (
            self._todo
            and self._running < self._workers
            and len(self._window) < self._ahead
            # True of an empty window, so one is always taken, however long it may be.
            and self._held + self._coming < self._max_samples
        ):
            path, size = self._todo[0], _file_size(self._todo[0])
            try:
                future = self._pool.submit(self._decode, path, size)
            except RuntimeError:
                return  # closed, or the interpreter is shutting down
            self._todo.popleft()
            self._running += 1
            self._coming += size
            self._window.append((path, future))

    def _decode(self, path: Path, size: int) -> Decoded:
        result: Decoded | None = None
        try:
            result = load(path, self._sample_rate)
        except AudioError as error:
            result = error
        finally:
            # Before the result can be seen, so that `next` finds the books balanced.
            with self._lock:
                self._running -= 1
                self._coming -= size
                self._held += _samples(result)
                self._fill()
        return result

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Path, Decoded]:
        """The next file in order, waited for."""
        with self._lock:
            self._fill()
            first = self._window[0] if self._window else None
        if first is None:
            self.close()
            raise StopIteration
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
        """Start nothing more and wait for the decodes under way."""
        self._pool.shutdown(wait=True)
        with self._lock:
            self._todo.clear()
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
    workers: int | None = None,
    ahead: int = 64,
    max_samples: int = 2**25,
) -> DecodeAhead:
    """``load`` every path in a pool of threads; the decoders and soxr release the GIL.

    Args:
        paths: files.
        sample_rate: the rate wanted, in Hz.
        workers: threads; the CPUs of this process, at most 8, when not given.
        ahead: the most files decoded, or being decoded, and not yet consumed.
        max_samples: no decode is started while this many samples wait for the consumer or, at
            one byte each, are being decoded (2**25 float32 samples are 128 MiB). A longer file
            is decoded alone.

    Returns:
        An iterator of ``(path, Recording or AudioError)`` in the order of ``paths``, and a
        context manager. Closing it early waits for the decodes under way and starts no others.

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
    return DecodeAhead(paths, sample_rate, workers, ahead, max_samples)
