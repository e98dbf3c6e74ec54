"""What happens to the rows of keys, as the parts note it down.

A part's events, in their order, tell what its rows are of. The events of all parts, in the order of
their numbers, tell what is there of every key.
"""

from collections.abc import Iterable
from typing import NamedTuple

from .._json import seal, unseal


class Added(NamedTuple):
    """The next ``rows`` rows of the part are the key's, from its row ``first`` on.

    With ``first`` = 0 the key begins anew: what was there of it is void. ``version`` is of what
    the rows are made from.
    """

    key: str
    version: str
    first: int
    rows: int


class Finished(NamedTuple):
    """The key is complete, with ``rows`` rows; ``duration`` in seconds."""

    key: str
    version: str
    rows: int
    duration: float
    partial: bool


class Failed(NamedTuple):
    """What was there of the key is void."""

    key: str


JournalEvent = Added | Finished | Failed

_KINDS = {kind.__name__.lower(): kind for kind in (Added, Finished, Failed)}


def to_text(events: Iterable[JournalEvent]) -> str:
    """A checksum, and a list of ``{"event": "added", "key": …, …}``."""
    return seal([{"event": type(event).__name__.lower()} | event._asdict() for event in events])


def from_text(text: str) -> list[JournalEvent]:
    """What ``to_text`` wrote.

    Raises:
        KeyError, TypeError, ValueError: it did not.
    """
    return [_KINDS[fields.pop("event")](**fields) for fields in unseal(text)]
