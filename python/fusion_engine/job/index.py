"""Where the rows of every file are among the parts."""

from collections.abc import Iterable
from typing import NamedTuple

from .events import Added, Event, Failed, Finished, Stat


class Place(NamedTuple):
    """``rows`` rows of the part of number ``part``, from its row ``first`` on."""

    part: int
    first: int
    rows: int


class Kept(NamedTuple):
    """What is on disk of a file; complete where its duration is known."""

    stat: Stat
    places: tuple[Place, ...] = ()
    rows: int = 0
    duration: float | None = None
    partial: bool = False


class Index:
    """What is on disk of every file: the events of the parts, one after the other.

    The same event twice is as good as once, and what follows a part that is lost is void, because
    rows of a file come in one order.

    Attributes:
        finished: files that are complete.
        rows: of all files, complete or not.
    """

    def __init__(self) -> None:
        self._files = dict[str, Kept]()
        self.finished = 0
        self.rows = 0

    def get(self, path: str) -> Kept | None:
        """What is there of a file, as it was when it was read."""
        return self._files.get(path)

    def apply(self, part: int, events: Iterable[Event]) -> None:
        """Take in the events of the part of number ``part``."""
        row = 0
        for event in events:
            match event:
                case Added():
                    self._add(event, Place(part, row, event.rows))
                    row += event.rows
                case Finished():
                    self._finish(event)
                case Failed():
                    self._set(event.path, None)

    def _add(self, event: Added, place: Place) -> None:
        stat = Stat(event.size, event.mtime_ns)
        kept = Kept(stat) if event.first == 0 else self._files.get(event.path)
        if kept is None or (kept.stat, kept.rows) != (stat, event.first):
            return
        *before, last = kept.places or (Place(place.part, place.first, 0),)
        if (last.part, last.first + last.rows) == (place.part, place.first):
            places = (*before, last._replace(rows=last.rows + place.rows))
        else:
            places = (*kept.places, place)
        self._set(event.path, kept._replace(places=places, rows=kept.rows + place.rows))

    def _finish(self, event: Finished) -> None:
        stat = Stat(event.size, event.mtime_ns)
        kept = Kept(stat) if event.rows == 0 else self._files.get(event.path)
        if kept is not None and (kept.stat, kept.rows) == (stat, event.rows):
            done = kept._replace(duration=event.duration, partial=event.partial)
            self._set(event.path, done)

    def _set(self, path: str, kept: Kept | None) -> None:
        before = self._files.pop(path, None)
        for entry, sign in ((before, -1), (kept, 1)):
            if entry is not None:
                self.rows += sign * entry.rows
                self.finished += sign * (entry.duration is not None)
        if kept is not None:
            self._files[path] = kept
