"""Where the rows of every key are among the parts."""

from collections.abc import Iterable
from typing import NamedTuple

from .events import Added, Failed, Finished, JournalEvent


class Place(NamedTuple):
    """``rows`` rows of the part of number ``part``, from its row ``first`` on."""

    part: int
    first: int
    rows: int


class Kept(NamedTuple):
    """What is on disk of a key; complete where its duration is known."""

    version: str
    places: tuple[Place, ...] = ()
    rows: int = 0
    duration: float | None = None
    partial: bool = False


class Index:
    """What is on disk of every key: the events of the parts, one after the other.

    The same event twice is as good as once, and what follows a part that is lost is void, because
    rows of a key come in one order.

    Attributes:
        finished: keys that are complete.
        rows: of all keys, complete or not.
    """

    def __init__(self) -> None:
        self._keys = dict[str, Kept]()
        self.finished = 0
        self.rows = 0

    def get(self, key: str) -> Kept | None:
        """What is there of a key."""
        return self._keys.get(key)

    def apply(self, part: int, events: Iterable[JournalEvent]) -> None:
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
                    self._set(event.key, None)

    def drop(self, part: int) -> None:
        """Forget every key that has rows in the part of number ``part``."""
        lost = [
            key
            for key, kept in self._keys.items()
            if any(place.part == part for place in kept.places)
        ]
        for key in lost:
            self._set(key, None)

    def _add(self, event: Added, place: Place) -> None:
        kept = Kept(event.version) if event.first == 0 else self._keys.get(event.key)
        if kept is None or (kept.version, kept.rows) != (event.version, event.first):
            return
        *before, last = kept.places or (Place(place.part, place.first, 0),)
        if (last.part, last.first + last.rows) == (place.part, place.first):
            places = (*before, last._replace(rows=last.rows + place.rows))
        else:
            places = (*kept.places, place)
        self._set(event.key, kept._replace(places=places, rows=kept.rows + place.rows))

    def _finish(self, event: Finished) -> None:
        kept = Kept(event.version) if event.rows == 0 else self._keys.get(event.key)
        if kept is not None and (kept.version, kept.rows) == (event.version, event.rows):
            done = kept._replace(duration=event.duration, partial=event.partial)
            self._set(event.key, done)

    def _set(self, key: str, kept: Kept | None) -> None:
        before = self._keys.pop(key, None)
        for entry, sign in ((before, -1), (kept, 1)):
            if entry is not None:
                self.rows += sign * entry.rows
                self.finished += sign * (entry.duration is not None)
        if kept is not None:
            self._keys[key] = kept
