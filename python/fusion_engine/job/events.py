"""What happens to the files of a job, as the parts note it down.

A part's events, in their order, tell what its rows are of. All events since the job began, in the
order of the parts, tell what is there of every file.
"""

import json
import os
from collections.abc import Iterable
from typing import NamedTuple, Self


class Stat(NamedTuple):
    """What changes with a file's content: bytes, and the time of the last change in ns."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> Self:
        """Of a file; -1 each where there is none."""
        try:
            info = os.stat(path)  # noqa: PTH116 (a path of a million)
        except OSError:
            return cls(-1, -1)
        return cls(info.st_size, info.st_mtime_ns)

    def still_of(self, path: str) -> bool:
        """Whether the file is there, and as it was."""
        return self.size >= 0 and self == self.of(path)


class Added(NamedTuple):
    """The next ``rows`` rows of the part are the file's, from its row ``first`` on.

    With ``first`` = 0 the file begins anew: what was there of it is void.
    """

    path: str
    size: int
    mtime_ns: int
    first: int
    rows: int


class Finished(NamedTuple):
    """The file is complete, with ``rows`` rows; ``duration`` in seconds."""

    path: str
    size: int
    mtime_ns: int
    rows: int
    duration: float
    partial: bool


class Failed(NamedTuple):
    """What was there of the file is void."""

    path: str


Event = Added | Finished | Failed

_KINDS = {kind.__name__.lower(): kind for kind in (Added, Finished, Failed)}


def to_json(events: Iterable[Event]) -> str:
    """A list of ``{"event": "added", "path": …, …}``."""
    return json.dumps(
        [{"event": type(event).__name__.lower()} | event._asdict() for event in events]
    )


def from_json(text: str) -> list[Event]:
    """What ``to_json`` wrote.

    Raises:
        KeyError, TypeError, ValueError: it did not.
    """
    return [_KINDS[fields.pop("event")](**fields) for fields in json.loads(text)]
