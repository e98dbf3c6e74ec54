"""A job: rows in, parts on disk, an output in the end."""

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..journal import Added, Failed, Finished, Journal
from ..output import Failures, Row, Table
from .destination import Destination
from .folder import JobFolder

Path = str | os.PathLike[str]


class Completed(NamedTuple):
    """How a job ended: the rows of its output, and whether one without rows removed another."""

    rows: int
    removed: bool


class Job:
    """A run over many files; made by ``open_job``. Its journal's keys are their paths.

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
        journal: Journal,
        failures: Failures,
    ) -> None:
        self._destination, self._folder, self._table = destination, folder, table
        self._journal = journal
        self.failures = failures
        self.going_on = journal.kept
        # As they were before they were read, and the rows that each has so far.
        self._versions = dict[str, str]()
        self._rows = dict[str, int]()

    def is_done(self, path: Path) -> bool:
        """Whether the rows of a file are all on disk, and it is as it was.

        Ask this, or ``rows_done``, before the file is read: one that changes afterwards is then
        done again by the next run.
        """
        key = os.fspath(path)
        kept = self._journal.get(key)
        done = kept is not None and kept.duration is not None and _is_still(kept.version, key)
        if not done:
            self._version(key)
        return done

    def rows_done(self, path: Path) -> int:
        """The rows of an unfinished file that are on disk, while it is as it was; else 0.

        When it was asked, ``add`` goes on after them; a file that was not begins at its first row.
        """
        key = os.fspath(path)
        kept = self._journal.get(key)
        rows = 0
        if kept is not None and kept.duration is None and _is_still(kept.version, key):
            rows = kept.rows
        self._version(key)
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
        self._journal.check()
        key = os.fspath(path)
        if any(row.path != key for row in rows):
            raise ValueError(f"rows of another file, expected those of {key}")
        self._table.check(rows, embeddings)
        self._destination.check_rows(self._journal.kept[1])
        if not len(rows):
            return
        first = self._rows.get(key, 0)
        batch = (tuple(rows), embeddings.copy())
        self._rows[key] = first + len(rows)
        self._journal.note((Added(key, self._version(key), first, len(rows)), batch))

    def finish(self, path: Path, *, duration: float, partial: bool) -> None:
        """Say that a file is complete.

        Args:
            path: of the file.
            duration: of the recording, in seconds.
            partial: the file contradicts itself or is damaged; this is what is there.

        Raises:
            FusionEngineError: a full disk.
        """
        self._journal.check()
        key = os.fspath(path)
        version, rows = self._version(key), self._rows.get(key, 0)
        self._forget(key)
        self._journal.note((Finished(key, version, rows, duration, partial), None))

    def fail(self, path: Path, reason: str) -> None:
        """Say that a file, or a folder of files, failed: none of its rows are in the output.

        Raises:
            FusionEngineError: a full disk.
        """
        self._journal.check()
        key = os.fspath(path)
        self._forget(key)
        if self._journal.knows(key):
            self._journal.note((Failed(key), None))
        self.failures.add(key, reason)

    def flush(self) -> None:
        """Put on disk what was added so far.

        Raises:
            FusionEngineError: a full disk; it is kept for the next time.
        """
        self._journal.flush()

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
        batches = self._journal.read(os.fspath(path) for path in order)
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

    def _version(self, key: str) -> str:
        """As the file was when it was first asked about."""
        version = self._versions.get(key)
        if version is None:
            version = self._versions[key] = _version_of(key)
        return version

    def _forget(self, key: str) -> None:
        self._versions.pop(key, None)
        self._rows.pop(key, None)


def _version_of(path: str) -> str:
    """What changes with a file's content: bytes, and the time of the last change; "": no file."""
    try:
        info = os.stat(path)  # noqa: PTH116 (a path of a million)
    except OSError:
        return ""
    return f"{info.st_size} {info.st_mtime_ns}"


def _is_still(version: str, path: str) -> bool:
    """Whether the file is there, and as it was."""
    return version != "" and version == _version_of(path)
