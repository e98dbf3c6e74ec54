from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_engine.probe.tasks import Split
from fusion_engine.probe.tasks.splits import draw_by_size, draw_split

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


def filled(splits: dict[str, Split], sizes: dict[str, int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for group, split in splits.items():
        counts[split] += sizes[group]
    return counts


@given(
    st.lists(st.integers(1, 60), min_size=3, max_size=60),
    st.integers(0, 100),
    st.sampled_from([(0.15, 0.15), (0.1, 0.2)]),
)
def test_shares_by_size(counts: list[int], seed: int, shares: tuple[float, float]) -> None:
    sizes = {f"group {index}": count for index, count in enumerate(counts)}
    total = sum(counts)
    large = total // 20
    splits = draw_by_size(sizes, *shares, seed, total=total, large=large)
    assert set(splits) == set(sizes)
    found = filled(splits, sizes)
    assert set(found) == {"train", "valid", "test"}
    small = sum(size for size in counts if size <= large)
    for split, share in zip(("valid", "test"), shares, strict=True):
        members = [sizes[group] for group, one in splits.items() if one == split]
        # None that holds the share without one of its groups, and another.
        assert found[split] - max(members) <= share * total
        if small > 2 * sum(shares) * total:
            # Enough that are small: as near to the share as half a group, and no large one.
            assert abs(found[split] - share * total) <= large / 2 + 1
            assert max(members) <= large


def test_a_draw_by_size_is_of_the_seed_and_the_names_alone() -> None:
    sizes = {speaker: 1 + index % 7 for index, speaker in enumerate(SPEAKERS)}
    backwards = dict(reversed(sizes.items()))

    def draw(one: dict[str, int], seed: int = 0, part: str = "") -> dict[str, Split]:
        return draw_by_size(one, 0.15, 0.15, seed, total=sum(one.values()), large=200, part=part)

    assert draw(sizes) == draw(backwards)
    assert draw(sizes) != draw(sizes, seed=1)
    assert draw(sizes) != draw(sizes, part="de")
