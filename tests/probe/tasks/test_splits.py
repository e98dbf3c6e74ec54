from collections import Counter

import pytest

from fusion_engine.probe.tasks.splits import draw_split

SPEAKERS = [f"speaker{index}" for index in range(1_000)]


def test_the_shares() -> None:
    counts = Counter(draw_split(SPEAKERS, 0.15, 0.25, seed=0).values())
    assert counts == {"train": 600, "valid": 150, "test": 250}


@pytest.mark.parametrize("groups", [3, 4, 5])
def test_no_split_is_empty(groups: int) -> None:
    assert set(draw_split(SPEAKERS[:groups], 0.1, 0.1, seed=0).values()) == {
        "train", "valid", "test",
    }  # fmt: skip


def test_order_and_duplicates_do_not_matter() -> None:
    assert draw_split(SPEAKERS[::-1] * 2, 0.1, 0.1, seed=3) == draw_split(
        SPEAKERS, 0.1, 0.1, seed=3
    )


def test_every_seed_and_part_is_another_draw() -> None:
    draws = [
        tuple(sorted(draw_split(SPEAKERS, 0.1, 0.1, seed=seed, part=part).items()))
        for seed in (0, 1)
        for part in ("", "de")
    ]
    assert len(set(draws)) == 4


def test_it_stays_as_published() -> None:
    """Written down once: a change would make every number measured before incomparable."""
    splits = draw_split([f"{actor}" for actor in range(1001, 1011)], 0.1, 0.2, seed=0)
    assert [actor for actor, split in splits.items() if split != "train"] == [
        "1005",
        "1010",
        "1001",
    ]
