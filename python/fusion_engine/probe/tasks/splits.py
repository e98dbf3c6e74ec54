"""Splits: the words for them, and drawing them: the same with every version of every library."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import sha256

from .base import Split

_WORDS: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
EXPECTED_SPLIT = "train, valid (val, dev) or test (eval)"


class SplitWords:
    """Reads the words for splits of one table: two for the same split are a doubt, not a choice.

    ``dev`` may be a part of what ``train`` is, beside ``val``; ``eval`` may be either, beside
    ``test``. So a table has one word for each.
    """

    def __init__(self) -> None:
        self._words: dict[Split, str] = {}

    def read(self, word: str) -> Split:
        """The split that ``word`` stands for, in any case.

        Raises:
            ValueError: none, or one for which there was another word before.
        """
        split = _WORDS.get(word.lower())
        if split is None:
            raise ValueError(f"split is {word!r}, expected {EXPECTED_SPLIT}")
        before = self._words.setdefault(split, word.lower())
        if before != word.lower():
            raise ValueError(
                f"split is {word!r} here and {before!r} before, and both may stand for {split}; "
                "write train, valid and test"
            )
        return split

    @property
    def note(self) -> str | None:
        """What was taken for what; ``None`` where the words were the splits' own."""
        taken = [f"{word} for {split}" for split, word in self._words.items() if word != split]
        return f"took {' and '.join(taken)}" if taken else None


def is_split(word: str) -> bool:
    """Whether it is a word for a split."""
    return word.lower() in _WORDS


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
    order = _order(groups, seed, part)
    least = 1 if len(order) >= 3 else 0
    n_valid, n_test = (max(least, round(share * len(order))) for share in (valid, test))
    splits: dict[str, Split] = dict.fromkeys(order, "train")
    splits.update(dict.fromkeys(order[:n_valid], "valid"))
    splits.update(dict.fromkeys(order[n_valid : n_valid + n_test], "test"))
    return splits


def draw_stratified(
    labels: Mapping[str, str], valid: float, test: float, seed: int
) -> dict[str, Split]:
    """Draw a split for each item, in the same shares of every label's items.

    Args:
        labels: of each item.
        valid, test, seed: as for ``draw_split``.
    """
    items: dict[str, list[str]] = defaultdict(list)
    for item, label in labels.items():
        items[label].append(item)
    return {
        item: split
        for label, members in items.items()
        for item, split in draw_split(members, valid, test, seed, part=label).items()
    }


def draw_by_size(
    sizes: Mapping[str, int],
    valid: float,
    test: float,
    seed: int,
    *,
    total: int,
    large: int,
    part: str = "",
) -> dict[str, Split]:
    """Draw a split for each group such that the shares hold for what is in the groups.

    The order is that of ``draw_split``, but groups of more than ``large`` items come last, from
    the smallest on, so that they train wherever others can fill the two smaller splits: a split
    that is one group tells of that one alone. Each group goes to the split that lacks most, where
    that brings it nearer to its share; the others train.

    Args:
        sizes: items in each group; three groups or more.
        valid, test: their shares of ``total``.
        seed, part: as for ``draw_split``.
        total: items of which the shares are, those of other groups that train included.
        large: what a group may have to be drawn like any other.
    """
    order = [group for group in _order(sizes, seed, part) if sizes[group] <= large]
    order += sorted(
        (group for group in sizes if sizes[group] > large), key=lambda group: (sizes[group], group)
    )
    splits: dict[str, Split] = dict.fromkeys(sizes, "train")
    goals: dict[Split, float] = {"valid": valid * total, "test": test * total}
    filled: dict[Split, int] = dict.fromkeys(goals, 0)
    # The last one trains in any case.
    for group in order[:-1]:
        size = sizes[group]
        open_splits = [
            split
            for split, goal in goals.items()
            if filled[split] == 0 or size < 2 * (goal - filled[split])
        ]
        if open_splits:
            split = min(open_splits, key=lambda one: filled[one] / goals[one])
            splits[group] = split
            filled[split] += size
    return splits


def _order(groups: Iterable[str], seed: int, part: str) -> list[str]:
    return sorted(
        set(groups), key=lambda group: sha256(f"{seed}\n{part}\n{group}".encode()).digest()
    )
