"""Splits that are drawn: the same on every machine and with every version of every library."""

from collections.abc import Iterable
from hashlib import sha256

from .base import Split


def draw_split(
    groups: Iterable[str], valid: float, test: float, seed: int, *, part: str = ""
) -> dict[str, Split]:
    """Draw a split for each group (a speaker, a tone, a file): whole groups, never parts of one.

    The order is that of the SHA-256 of seed, part and group, so it depends on nothing else.

    Args:
        groups: names; duplicates count once.
        valid, test: their shares of the groups, rounded, and at least one group each where there
            are three or more.
        seed: another seed, another split.
        part: sets apart draws with the same seed and the same groups (a stratum's name).
    """
    order = sorted(
        set(groups), key=lambda group: sha256(f"{seed}\n{part}\n{group}".encode()).digest()
    )
    least = 1 if len(order) >= 3 else 0
    n_valid, n_test = (max(least, round(share * len(order))) for share in (valid, test))
    splits: dict[str, Split] = dict.fromkeys(order, "train")
    splits.update(dict.fromkeys(order[:n_valid], "valid"))
    splits.update(dict.fromkeys(order[n_valid : n_valid + n_test], "test"))
    return splits
