"""A job: rows in, parts on disk, an output in the end."""

import atexit
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..output import Failures, Row, Table
from .assembly import assemble
from .destination import Destination
from .events import Added, Event, Failed, Finished, Stat
from .folder import JobFolder
from .index import Index, Kept
from .part import Batch, PartReader, part_path, write_part

# A finished row is on disk after this and the time of a write.
_FLUSH_SECONDS = 2.0
# What is held in memory, and what is read for the output at a time.
_HELD_BYTES = 2**25
_READ_BYTES = 2**24

Path = str | os.PathLike[str]


class Completed(NamedTuple):
    """How a job ended: the rows of its output, and whether one without rows removed another."""

    rows: int
    removed: bool


class Job:
    """The journal of a run over many files; made by ``open_job``.

    For one thread. Every method raises what went wrong in the thread that puts rows on disk.

    Attributes:
        going_on: files that were finished, and rows that were kept, when the job was opened; (0, 0)
            if there was no earlier run.
        failures: of this run.
    """

    def __init__(
        self,
        destination: Destination,
        folder: JobFolder,
        table: Table,
        index: Index,
        next_part: int,
        failures: Failures,
    ) -> None:
        self._destination, self._folder, self._table = destination, folder, table
        self._index, self._next_part = index, next_part
        self.failures = failures
        self.going_on = (index.finished, index.rows)
        # As they were before they were read, and the rows that each has so far.
        self._stats = dict[str, Stat]()
        self._rows = dict[str, int]()
        self._held = list[tuple[Event, Batch | None]]()
        self._ended = set[str]()  # files whose end is held
        self._held_bytes = 0
        self._lock = threading.Lock()  # of what is held, and the index
        self._disk = threading.Lock()  # of the next part
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._owner = os.getpid()
        # It would not keep the interpreter from ending, but must not be in a write then.
        self._thread = threading.Thread(
            target=self._keep_flushing, name="fusion_engine-job", daemon=True
        )
        atexit.register(self.close)
        self._thread.start()

    def is_done(self, path: Path) -> bool:
        """Whether the rows of a file are all on disk, and it is as it was.

        Ask this, or ``rows_done``, before the file is read: one that changes afterwards is then
        done again by the next run.
        """
        key = os.fspath(path)
        kept = self._kept(key)
        done = kept is not None and kept.duration is not None and kept.stat.still_of(key)
        if not done:
            self._stat(key)
        return done

    def rows_done(self, path: Path) -> int:
        """The rows of an unfinished file that are on disk, while it is as it was; else 0.

        When it was asked, ``add`` goes on behind them; a file that was not begins at its first row.
        """
        key = os.fspath(path)
        kept = self._kept(key)
        rows = 0
        if kept is not None and kept.duration is None and kept.stat.still_of(key):
            rows = kept.rows
        self._stat(key)
        self._rows.setdefault(key, rows)
        return rows

    def add(self, path: Path, rows: Sequence[Row], embeddings: NDArray[np.float32]) -> None:
        """Take the next rows of a file.

        Args:
            path: of the file.
            rows: n clips of it; duration and partial are those that ``finish`` gives.
            embeddings: [n, D] float32; the caller may use its buffer again.

        Raises:
            ValueError: rows that do not fit the output, or of another file.
            FusionEngineError: a value beyond float16, rows beyond the format, or a full disk.
        """
        self._check()
        key = os.fspath(path)
        if any(row.path != key for row in rows):
            raise ValueError(f"rows of another file, expected those of {key}")
        self._table.check(rows, embeddings)
        self._destination.check_rows(self._index.rows)
        if not len(rows):
            return
        first, stat = self._rows.get(key, 0), self._stat(key)
        batch = (tuple(rows), embeddings.copy())
        self._rows[key] = first + len(rows)
        self._hold(Added(key, *stat, first, len(rows)), batch)

    def finish(self, path: Path, *, duration: float, partial: bool) -> None:
        """Say that a file is complete.

        Args:
            path: of the file.
            duration: of the recording, in seconds.
            partial: the file contradicts itself or is damaged; this is what is there.

        Raises:
            FusionEngineError: a full disk.
        """
        self._check()
        key = os.fspath(path)
        stat = self._stat(key)
        rows = self._rows.get(key, 0)
        self._forget(key)
        self._hold(Finished(key, *stat, rows, duration, partial))

    def fail(self, path: Path, reason: str) -> None:
        """Say that a file, or a folder of files, failed: none of its rows are in the output.

        Raises:
            FusionEngineError: a full disk.
        """
        self._check()
        key = os.fspath(path)
        with self._lock:
            known = bool(self._held) or self._index.get(key) is not None
        self._forget(key)
        if known:
            self._hold(Failed(key))
        self.failures.add(key, reason)

    def flush(self) -> None:
        """Put on disk what was added so far.

        Raises:
            FusionEngineError: a full disk; it is kept for the next time.
        """
        if os.getpid() != self._owner:
            return  # a fork's copy of what its parent will write
        with self._disk:
            with self._lock:
                held = list(self._held)
            if not held:
                return
            events = [event for event, _ in held]
            batches = [batch for _, batch in held if batch is not None]
            number = self._next_part
            write_part(part_path(self._folder.path, number), self._table, events, batches)
            with self._lock:
                self._next_part = number + 1
                self._index.apply(number, events)
                del self._held[: len(held)]
                self._held_bytes -= sum(_bytes_of(*item) for item in held)
                ends = (event for event, batch in self._held if batch is None)
                self._ended = {event.path for event in ends}
            self._error = None

    def complete(
        self,
        order: Iterable[Path],
        *,
        seen: Callable[[Sequence[Row]], None] | None = None,
    ) -> Completed:
        """Write the output, and remove the parts.

        If no file gave a row, an older output that this job may replace is removed.

        Args:
            order: the files whose rows are in the output, each once; those that are not finished
                are left out.
            seen: called with the rows as they are written, those of earlier runs among them.

        Raises:
            FusionEngineError: the output cannot be written, a damaged part; the parts stay.
        """
        self.flush()
        self._destination.check_replaceable()
        most_rows = max(1, _READ_BYTES // self._table.row_bytes)
        reader = PartReader(self._folder.path)
        paths = (os.fspath(path) for path in order)
        batches = assemble(self._index, paths, reader, most_rows)
        first = next(batches, None)
        count, removed = 0, False
        if first is None:
            removed = self._destination.remove(self._folder)
        else:
            with self._destination.writer(self._folder, self._table) as writer:
                for rows, embeddings in chain([first], batches):
                    writer.write(rows, embeddings)
                    count += len(rows)
                    if seen is not None:
                        seen(rows)
        self._destination.sync()
        self.failures.close()
        self._folder.remove_parts()
        return Completed(count, removed)

    def close(self) -> None:
        """Put on disk what was added, and end the thread that does so; called by ``open_job``.

        Raises:
            FusionEngineError: a full disk.
        """
        self._stop.set()
        self._thread.join()
        atexit.unregister(self.close)
        self.flush()

    def _kept(self, key: str) -> Kept | None:
        """What is on disk of a file; its end is put there first."""
        if key in self._ended:
            self.flush()
        with self._lock:
            return self._index.get(key)

    def _stat(self, key: str) -> Stat:
        """As the file was when it was first asked about."""
        stat = self._stats.get(key)
        if stat is None:
            stat = self._stats[key] = Stat.of(key)
        return stat

    def _forget(self, key: str) -> None:
        self._stats.pop(key, None)
        self._rows.pop(key, None)

    def _hold(self, event: Event, batch: Batch | None = None) -> None:
        with self._lock:
            self._held.append((event, batch))
            self._held_bytes += _bytes_of(event, batch)
            if batch is None:
                self._ended.add(event.path)
        if self._held_bytes >= _HELD_BYTES:
            self.flush()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _keep_flushing(self) -> None:
        while not self._stop.wait(_FLUSH_SECONDS):
            try:
                self.flush()
            except Exception as error:
                self._error = error


def _bytes_of(event: Event, batch: Batch | None) -> int:
    """About, on disk: an escaped character of a path takes six."""
    return 200 + 6 * len(event.path) + (0 if batch is None else batch[1].nbytes)
