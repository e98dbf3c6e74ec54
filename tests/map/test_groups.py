import re

import pytest

from fusion_engine import FusionEngineError
from fusion_engine.map.groups import DARK, LIGHT, OTHER_DARK, OTHER_LIGHT, by_column, by_folder


def names_of(groups):
    return [groups.names[number] for number in groups.of_row]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["in/a/1.wav", "in/b/x/2.wav", "in/a/y/3.wav"], ["a", "b", "a"]),
        (["in/ab/1.wav", "in/ac/2.wav"], ["ab", "ac"]),
        (["in/1.wav", "in/a/2.wav"], [".", "a"]),
        (["1.wav", "2.wav"], [".", "."]),
        (["in/a/1.wav"], ["."]),
        (["/data/a/1.wav", "/data/b/1.wav"], ["a", "b"]),
    ],
)
def test_the_first_folder_in_which_paths_differ(paths, expected):
    assert names_of(by_folder(paths)) == expected


def test_the_largest_group_is_first_then_by_name():
    groups = by_folder(["b/1", "c/1", "a/1", "c/2"])
    assert groups.names == ["c", "a", "b"]
    assert groups.legend == [(0, "c", 2), (1, "a", 1), (2, "b", 1)]


def test_groups_beyond_the_palette_share_a_colour():
    paths = [f"{n:02}/{k}" for n in range(14) for k in range(20 - n)]
    groups = by_folder(paths)
    assert groups.legend[-1] == (len(LIGHT), "3 others", 9 + 8 + 7)
    assert groups.colours.max() == len(LIGHT)
    assert sum(count for *_, count in groups.legend) == len(paths)


@pytest.fixture
def labels(tmp_path):
    def write(text, name="labels.csv", encoding="utf-8"):
        (tmp_path / name).write_text(text, encoding=encoding)
        return tmp_path / name

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_column(labels, encoding):
    file = labels('path,kind\na.wav,dog\n"b,1.wav","cat\n2"\nc.wav,\n', encoding=encoding)
    groups = by_column(["a.wav", "b,1.wav", "c.wav", "d.wav", "a.wav"], file, "kind", ".")
    assert names_of(groups) == ["dog", "cat\n2", None, None, "dog"]
    assert (groups.by, groups.unlabelled) == ("kind", 2)
    assert groups.legend == [(0, "dog", 2), (1, "cat\n2", 1), (len(LIGHT), "no label", 2)]


def test_paths_relative_to_the_labels(labels, tmp_path):
    """The table's begin in ``root``, the CSV's beside it."""
    (tmp_path / "meta").mkdir()
    file = labels("path,kind\n../audio/a.wav,dog\n", "meta/labels.csv")
    assert names_of(by_column(["audio/a.wav"], file, "kind", tmp_path)) == ["dog"]
    assert names_of(by_column([f"{tmp_path}/audio/a.wav"], file, "kind", ".")) == ["dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,kind\nx.wav,dog\n",
            "none of its 1 path with a label is in the table; it has 'x",
        ),
        ("path,kind\na.wav,\n", "none of its 0 paths with a label is in the table; it has 'none'"),
        ("file,kind\na.wav,dog\n", "no column 'path', it has file, kind"),
        ("path,sort\na.wav,dog\n", "no column 'kind', it has path, sort"),
        ("", "no column 'path', it has none"),
    ],
)
def test_labels_that_do_not_fit(labels, text, message):
    with pytest.raises(FusionEngineError, match=re.escape(message)):
        by_column(["a.wav"], labels(text), "kind", ".")


def test_labels_that_are_no_text(labels, tmp_path):
    (tmp_path / "x.csv").write_bytes(b"path,kind\na.wav,caf\xe9\n")
    with pytest.raises(FusionEngineError, match=r"x\.csv: not a CSV in UTF-8"):
        by_column(["a.wav"], tmp_path / "x.csv", "kind", ".")


def contrast(one, other):
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_seen():
    assert len(LIGHT) == len(DARK) == len({*LIGHT}) == len({*DARK})
    for palette, page in (((*LIGHT, OTHER_LIGHT), "#fbfbfc"), ((*DARK, OTHER_DARK), "#111418")):
        assert min(contrast(colour, page) for colour in palette) >= 3
