"""The published accuracies: every number as the paper prints it."""

import json
import statistics
from importlib import resources
from pathlib import Path

import pytest

from fusion_engine.errors import DatasetError
from fusion_engine.export import PRESETS
from fusion_engine.probe.published import published
from fusion_engine.probe.tasks import TASKS

NINE = {
    "esc50",
    "urbansound8k",
    "speech_commands",
    "voxceleb1",
    "voxforge",
    "crema_d",
    "gtzan",
    "nsynth",
    "surge",
}


def packaged():
    return json.loads((resources.files("fusion_engine.probe") / "published.json").read_text())


def test_the_abstract():
    """Speech Commands V2 with VGGish: +77.1 (14.3 % to 91.4 %)."""
    tables = published()
    last = tables.accuracy("vggish-last", "speech_commands")
    fusion = tables.accuracy("vggish-fusion", "speech_commands")
    assert (last, fusion) == (14.3, 91.4)
    assert tables.difference("vggish-fusion").accuracy["speech_commands"] == 77.1


# Typed from the paper's tables, apart from the package's file.
@pytest.mark.parametrize(
    ("system", "task", "percent"),
    [
        ("vggish-last", "crema_d", 44.4),
        ("vggish-fusion", "voxceleb1", 54.5),
        ("cnn14-last", "gtzan", 79.7),
        ("cnn14-fusion", "esc50", 93.0),
        ("cnn14-fusion", "surge", 32.4),
        ("ast-last", "voxforge", 81.2),
        ("ast-fusion", "nsynth", 77.6),
        ("sf-nfnet-f0", "speech_commands", 93.0),
        ("sf-nfnet-f0", "crema_d", None),
        ("cola", "voxceleb1", 29.9),
        ("cola", "esc50", None),
        ("openl3", "urbansound8k", 79.3),
        ("openl3", "surge", 36.4),
        ("byol-a", "crema_d", 62.8),
        ("byol-a", "nsynth", 74.1),
    ],
)
def test_cells_of_the_paper(system, task, percent):
    assert published().accuracy(system, task) == percent


@pytest.mark.parametrize(
    ("system", "average"),
    [
        ("vggish-last", 47.2),
        ("vggish-fusion", 71.3),
        ("cnn14-last", 57.0),
        ("cnn14-fusion", 72.6),
        ("ast-last", 65.5),
        ("ast-fusion", 69.8),
    ],
)
def test_rows_have_the_averages_that_the_paper_prints(system, average):
    """A digit typed wrong in a cell moves the mean by at least 0.01, and most do by more than
    rounding allows.
    """
    row = published().row(system)
    assert row.average == average
    assert statistics.fmean(row.accuracy.values()) == pytest.approx(average, abs=0.06)


@pytest.mark.parametrize(("model", "average"), [("vggish", 24.1), ("cnn14", 15.6), ("ast", 4.3)])
def test_printed_differences_are_those_of_the_accuracies(model, average):
    """Up to the rounding of three numbers to one decimal."""
    tables = published()
    one = tables.difference(f"{model}-fusion")
    assert (one.last, one.average) == (f"{model}-last", average)
    assert set(one.accuracy) == NINE
    for task, points in one.accuracy.items():
        gain = tables.accuracy(one.fusion, task) - tables.accuracy(one.last, task)
        assert points == pytest.approx(gain, abs=0.1 + 1e-9)
    assert statistics.fmean(one.accuracy.values()) == pytest.approx(average, abs=0.06)


def test_what_the_paper_measured_itself_is_marked():
    rows = published().rows
    starred = {row.system: set(row.starred) for row in rows if row.starred}
    assert starred == {
        "openl3": NINE - {"esc50", "urbansound8k"},
        "byol-a": {"esc50", "crema_d", "gtzan", "surge"},
    }


def test_only_what_the_paper_lacks_is_null():
    absent = {
        row.system: {task for task, value in row.accuracy.items() if value is None}
        for row in published().rows
    }
    assert {system: tasks for system, tasks in absent.items() if tasks} == {
        "sf-nfnet-f0": {"urbansound8k", "crema_d", "gtzan", "surge"},
        "cola": {"esc50", "urbansound8k", "crema_d", "gtzan", "surge"},
    }


def test_every_system_and_task_of_the_paper_has_its_place():
    tables = published()
    assert {row.system for row in tables.table("III")} == set(PRESETS)
    titles = [row.title for row in tables.table("IV")]
    assert titles == ["SF-NFNet-F0", "COLA", "OpenL3", "BYOL-A"]
    for row in tables.rows:
        assert set(row.accuracy) == NINE
    assert set(TASKS) >= NINE


def test_what_is_not_in_the_paper():
    tables = published()
    assert tables.accuracy("nobody", "gtzan") is None
    assert tables.accuracy("ast-fusion", "synthetic") is None
    assert tables.difference("ast-last") is None


def test_a_copy_with_other_numbers(tmp_path):
    data = packaged()
    row = next(row for row in data["rows"] if row["system"] == "byol-a")
    row["accuracy"]["surge"] = 12.5
    path = tmp_path / "copy.json"
    path.write_text(json.dumps(data))
    assert published(path).accuracy("byol-a", "surge") == 12.5
    assert published().accuracy("byol-a", "surge") == 26.2


def test_the_documentation_prints_the_same_numbers():
    page = Path(__file__).parents[2] / "docs/reproducing.md"
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    tables, shown, last = published(), 0, None
    for name, *values in cells:
        row = next((row for row in tables.rows if row.title == name), None)
        if row is not None:
            expected = [
                "–" if value is None else f"{value:.1f}" + "*" * (task in row.starred)
                for task, value in row.accuracy.items()
            ]
            average = "" if row.average is None else f"{row.average:.1f}"
        elif name == "difference":
            one = tables.difference(last.system)
            expected = [f"{value:+.1f}" for value in one.accuracy.values()]
            average = f"{one.average:+.1f}"
        else:
            continue
        assert values == [*expected, average]
        shown, last = shown + 1, row
    assert shown == len(tables.rows) + len(tables.differences)


def _percent(data):
    data["rows"][0]["accuracy"]["gtzan"] = 101


def _difference(data):
    data["differences"][0]["accuracy"]["gtzan"] = "4.5"


def _starred(data):
    next(row for row in data["rows"] if row["system"] == "cola")["starred"] = ["gtzan"]


def _table(data):
    data["rows"][0]["table"] = "V"


def _rows(data):
    del data["rows"]


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (_percent, "101"),
        (_difference, "4.5"),
        (_starred, "starred"),
        (_table, "'V'"),
        (_rows, "rows"),
    ],
)
def test_a_spoilt_copy_is_refused(tmp_path, spoil, word):
    data = packaged()
    spoil(data)
    path = tmp_path / "copy.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=word):
        published(path)


def test_a_missing_copy_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.json: No such file"):
        published(tmp_path / "none.json")
