"""The journal: rows of keys in, parts on disk."""

import atexit
import logging
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from .._atomic import write_error
from ..errors import FusionEngineError
from ..output import RowLayout
from .assembly import assemble
from .events import JournalEvent
from .index import Index, Kept
from .part import Batch, DamagedPart, PartReader, part_numbers, read_events, write_part

logger = logging.getLogger(__name__)

# A row is on disk after this and the time of a write.
_FLUSH_SECONDS = 2.0
# What is held in memory, and what is read at a time.
_HELD_BYTES = 2**25
_READ_BYTES = 2**24


class Journal:
    """Rows of keys, which are in parts on disk within seconds; a context manager.

    For one thread. Every method raises what went wrong in the thread that puts rows on disk.

    Args:
        folder: of the parts, those of earlier runs among them; damaged ones are removed.
        layout: of the rows.
        shared: other processes may write into the folder too. What they add is seen by those that
            open it later, and the order in which parts were written is not known: the events of a
            key must then be noted together.

    Attributes:
        layout: as given.

    Raises:
        FusionEngineError: the disk does not give a part.
    """

    def __init__(self, folder: Path, layout: RowLayout, *, shared: bool = False) -> None:
        self._folder, self.layout, self._shared = folder, layout, shared
        self._index = Index()
        self._found = part_numbers(folder)
        self._last = self._found[-1] if self._found else 0
        for part in self._found:
            self._load(part)
        self._held = list[tuple[JournalEvent, Batch | None]]()
        self._ended = set[str]()  # keys whose end is held
        self._held_bytes = 0
        self._lock = threading.Lock()  # of what is held, and the index
        self._disk = threading.Lock()  # of the next part
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._owner = os.getpid()
        # It would not keep the interpreter from ending, but must not be in a write then.
        self._thread = threading.Thread(
            target=self._keep_flushing, name="fusion_engine-journal", daemon=True
        )

    def __enter__(self) -> Self:
        atexit.register(self._close)
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self._close()
        except FusionEngineError as reason:
            if error is None:
                raise
            logger.warning("the last rows are not kept: %s", reason)

    @property
    def kept(self) -> tuple[int, int]:
        """Complete keys, and rows of all keys, that are on disk."""
        return self._index.finished, self._index.rows

    def get(self, key: str) -> Kept | None:
        """What is on disk of a key; its end is put there first."""
        if key in self._ended:
            self.flush()
        with self._lock:
            return self._index.get(key)

    def knows(self, key: str) -> bool:
        """Whether something may have been noted of a key, on disk or not yet."""
        with self._lock:
            return bool(self._held) or self._index.get(key) is not None

    def note(self, *entries: tuple[JournalEvent, Batch | None]) -> None:
        """Take what happened to a key, with its rows where it is that some were added.

        Raises:
            FusionEngineError: a full disk.
        """
        self.check()
        with self._lock:
            for event, batch in entries:
                self._held.append((event, batch))
                self._held_bytes += _bytes_of(event, batch)
                if batch is None:
                    self._ended.add(event.key)
        if self._held_bytes >= _HELD_BYTES:
            self.flush()

    def check(self) -> None:
        """Raise what went wrong in the thread that puts rows on disk."""
        if self._error is not None:
            raise self._error

    def flush(self) -> None:
        """Put on disk what was noted so far.

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
            part = secrets.randbits(62) if self._shared else self._last + 1
            write_part(self._folder, part, self.layout, events, batches)
            with self._lock:
                self._last = part
                self._index.apply(part, events)
                del self._held[: len(held)]
                self._held_bytes -= sum(_bytes_of(*entry) for entry in held)
                self._ended = {event.key for event, batch in self._held if batch is None}
            self._error = None

    def read(self, order: Iterable[str]) -> Iterator[Batch]:
        """The rows of the complete keys of ``order``, a few MiB at a time.

        Raises:
            DamagedPart: a part is damaged, or gone.
            FusionEngineError: a full disk.
        """
        self.flush()
        most_rows = max(1, _READ_BYTES // self.layout.row_bytes)
        return assemble(self._index, order, PartReader(self._folder, self.layout), most_rows)

    def drop(self, damaged: DamagedPart) -> None:
        """Remove a part of an earlier run, and forget the keys that had rows in it.

        Raises:
            FusionEngineError: it cannot be removed.
            DamagedPart: it is of this run, and would be damaged again.
        """
        if damaged.part not in self._found:
            raise damaged
        self._remove(damaged)
        with self._lock:
            self._index.drop(damaged.part)

    def _load(self, part: int) -> None:
        try:
            self._index.apply(part, read_events(self._folder, part))
        except DamagedPart as damaged:
            self._remove(damaged)

    def _remove(self, damaged: DamagedPart) -> None:
        logger.warning("removed, for it is damaged: %s: %s", damaged.path, damaged.reason)
        try:
            damaged.path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(damaged.path, error) from error

    def _close(self) -> None:
        """Put on disk what was noted, and end the thread that does so."""
        self._stop.set()
        self._thread.join()
        atexit.unregister(self._close)
        self.flush()

    def _keep_flushing(self) -> None:
        while not self._stop.wait(_FLUSH_SECONDS):
            try:
                self.flush()
            except Exception as error:
                self._error = error


def _bytes_of(event: JournalEvent, batch: Batch | None) -> int:
    """About, on disk: an escaped character of a path takes six."""
    return 200 + 6 * len(event.key) + (0 if batch is None else batch[1].nbytes)
