"""``os.fork``: of all threads only the one that forked lives on in the child.

Pools have lost their threads there, locks may be held by nobody, and a native library that waits
for its threads when it is freed would wait for ever.
"""

import ctypes
import os
from typing import Any, Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """Something that must be made fit for use in a forked process."""

    def after_fork(self) -> None:
        """Called in the child, before anything else runs there."""


_watched: WeakSet[Forkable] = WeakSet()


def watch_forks(item: Forkable) -> None:
    """Call ``item.after_fork()`` in every process forked from this one, as long as it lives."""
    _watched.add(item)


def never_free(item: Any) -> None:
    """Keep an object for ever, not freed at exit either."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))


def _in_child() -> None:
    for item in list(_watched):
        item.after_fork()


os.register_at_fork(after_in_child=_in_child)
