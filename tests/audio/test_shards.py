import os
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_engine.audio.listing import Listed
from fusion_engine.audio.shards import parse_shard, shard

_PATHS = st.binary(min_size=1, max_size=12).map(
    lambda raw: Path(os.fsdecode(raw.replace(b"\0", b"x")))
)


@given(st.lists(_PATHS, unique=True), st.integers(1, 9))
def test_every_path_is_in_one_share(paths, of):
    shares = [shard(paths, number, of) for number in range(1, of + 1)]
    assert sorted(chain(*shares)) == sorted(paths)
    for share in shares:
        assert share == [path for path in paths if path in share]  # in their order


@given(st.lists(_PATHS, unique=True, min_size=1), st.integers(1, 9), st.randoms())
def test_a_share_depends_on_the_path_alone(paths, of, random):
    number = next(n for n in range(1, of + 1) if paths[0] in shard(paths, n, of))
    random.shuffle(others := paths[1:])
    assert paths[0] in shard([*others[: len(others) // 2], paths[0]], number, of)


def test_shares_of_these_paths_stay_what_they_are():
    """A job of a later version goes on with the share of an earlier one."""
    paths = [Path(name) for name in ("a.wav", "b.wav", "in/c.flac", os.fsdecode(b"\xe9.mp3"))]
    # `printf %s "$path" | b2sum -l 64`, modulo 5.
    assert [next(n for n in range(1, 6) if shard([path], n, 5)) for path in paths] == [5, 4, 5, 2]


def test_parts_of_a_file_stay_together():
    parts = [Listed(Path("a.wav"), float(second), second + 1.0, second) for second in range(50)]
    assert sorted(len(shard(parts, number, 4)) for number in range(1, 5)) == [0, 0, 0, 50]
    assert [bool(shard(parts, n, 4)) for n in range(1, 5)] == [
        bool(shard([Path("a.wav")], n, 4)) for n in range(1, 5)
    ]


def test_shares_are_balanced():
    sizes = [len(shard([Path(f"in/{i:05}.wav") for i in range(8_000)], n, 8)) for n in range(1, 9)]
    assert all(850 < size < 1_150 for size in sizes)  # five standard deviations


def test_parse_shard():
    assert parse_shard("3/8") == (3, 8)
    assert parse_shard("1/1") == (1, 1)


@pytest.mark.parametrize(
    "text", ["0/8", "9/8", "a/b", "3", "3/", "/8", "-1/8", "1/8/2", " 1/8", "²/8", ""]
)
def test_what_is_no_share(text):
    with pytest.raises(ValueError, match=r"is not I/N with I from 1 to N, such as 3/8"):
        parse_shard(text)


@pytest.mark.parametrize(("number", "of"), [(0, 8), (9, 8), (1, 0)])
def test_shares_that_are_not_there(number, of):
    with pytest.raises(ValueError, match="expected one from 1"):
        shard([Path("a")], number, of)
