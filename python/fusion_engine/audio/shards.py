"""Shares of a corpus, for jobs that know nothing of each other."""

import os
import re
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from .listing import Listed

_Item = TypeVar("_Item", Path, Listed)


def parse_shard(text: str) -> tuple[int, int]:
    """The number of a share, from 1 on, and of how many: (3, 8) of ``3/8``.

    Raises:
        ValueError: no such thing.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"{text!r} is not I/N with I from 1 to N, such as 3/8")
    return int(match[1]), int(match[2])


def shard(items: Iterable[_Item], number: int, of: int) -> list[_Item]:
    """The items of share ``number`` (from 1 on) of ``of``, in their order.

    A file's share is a hash of its path as it is given, whatever else is there and in whatever
    order: the shares together have every item, and each is in one. Parts of one file stay
    together. Sizes are about equal, as far as chance makes them.

    Raises:
        ValueError: no such share.
    """
    if not 1 <= number <= of:
        raise ValueError(f"share {number} of {of}, expected one from 1 to {of}")
    return [item for item in items if _hash(item) % of == number - 1]


def _hash(item: Path | Listed) -> int:
    path = item.path if isinstance(item, Listed) else item
    return int.from_bytes(blake2b(os.fsencode(path), digest_size=8).digest(), "big")
