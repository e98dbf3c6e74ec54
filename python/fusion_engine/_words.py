"""Numbers and lists in messages."""

from collections.abc import Callable, Collection
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")


def counted(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(
    items: Collection[_T], show: Callable[[_T], str] = str, *, most: int = 6, more: str = "more"
) -> str:
    """``a, b and 7 more``: the first ``most`` items, and how many more there are."""
    rest = len(items) - most
    shown = ", ".join(map(show, islice(items, most)))
    return f"{shown} and {rest} {more}" if rest > 0 else shown
