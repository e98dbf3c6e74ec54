"""The published accuracies: what is there is right, what is not there is said."""

import json
from importlib import resources

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
    assert fusion - last == pytest.approx(77.1)


def test_every_system_and_task_of_the_paper_has_its_place():
    tables = published()
    assert {row.system for row in tables.table("III")} == set(PRESETS)
    assert [row.title for row in tables.table("IV")] == ["OpenL3", "BYOL-A", "COLA", "SF NFNet-F0"]
    for row in tables.rows:
        assert set(row.accuracy) == NINE
    assert set(TASKS) >= NINE


def test_what_is_not_known_is_said():
    tables = published()
    assert tables.accuracy("ast-fusion", "gtzan") is None
    assert tables.accuracy("nobody", "gtzan") is None
    assert tables.accuracy("ast-fusion", "synthetic") is None
    assert "null" in tables.missing
    assert "--published" in tables.missing


def test_every_number_has_a_source():
    for row in published().rows:
        known = [value for value in row.accuracy.values() if value is not None]
        assert bool(known) == (row.source is not None)


def test_a_completed_copy(tmp_path):
    data = packaged()
    row = next(row for row in data["rows"] if row["system"] == "byol-a")
    row["accuracy"]["surge"], row["source"] = 12.5, "mine"
    data["sources"]["mine"] = "a number made up for this test"
    path = tmp_path / "copy.json"
    path.write_text(json.dumps(data))
    assert published(path).accuracy("byol-a", "surge") == 12.5
    assert published().accuracy("byol-a", "surge") is None


def _percent(data):
    data["rows"][0]["accuracy"]["gtzan"] = 101


def _source(data):
    data["rows"][0]["source"] = None


def _table(data):
    data["rows"][0]["table"] = "V"


def _rows(data):
    del data["rows"]


@pytest.mark.parametrize(
    ("spoil", "word"),
    [(_percent, "101"), (_source, "without a source"), (_table, "'V'"), (_rows, "rows")],
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
