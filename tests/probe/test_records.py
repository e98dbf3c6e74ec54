"""Results on disk with what they are results of."""

import json
from dataclasses import replace

import pytest

from fusion_engine.errors import FusionEngineError
from fusion_engine.export import PRESETS
from fusion_engine.probe.records import ProbeRecord, load_records

from .builders import record, system


@pytest.mark.parametrize("folds", [None, (30, 50)])
def test_a_record_comes_back(tmp_path, folds):
    one = record([0.5, 0.6], folds=folds, notes=("a note",))
    path = one.save(tmp_path)
    assert path == tmp_path / "cnn14-fusion.gtzan.probe.json"
    assert ProbeRecord.load(path) == one


def test_other_programs_can_read_it(tmp_path):
    data = json.loads(record([0.5, 0.6]).save(tmp_path).read_text())
    assert data["system"]["layers"] == [3, 6]
    assert data["result"]["accuracy"] == pytest.approx(0.55)


def test_another_system_has_another_file():
    changes = [
        {},
        {"weights": "random:0"},
        {"weights": "random:1"},
        {"weights": "best.pth", "weights_sha256": "1" * 64},
        {"weights": "best.pth", "weights_sha256": "2" * 64},
        {"precision": "fp16"},
        {"head": "max"},
        {"normalized": True},
    ]
    systems = [system(**change) for change in changes]
    names = [record([0.5], of=one).file_name for one in systems]
    assert names == [
        "cnn14-fusion.gtzan.probe.json",
        "cnn14-fusion.random-0.gtzan.probe.json",
        "cnn14-fusion.random-1.gtzan.probe.json",
        "cnn14-fusion.11111111.gtzan.probe.json",
        "cnn14-fusion.22222222.gtzan.probe.json",
        "cnn14-fusion.fp16.gtzan.probe.json",
        "cnn14-fusion.max.gtzan.probe.json",
        "cnn14-fusion.normalized.gtzan.probe.json",
    ]
    assert systems[-1].label == "cnn14-fusion (task normalization)"


def test_a_record_from_before_normalisation_was_said():
    data = json.loads(record([0.5]).to_json())
    del data["system"]["normalized"]
    assert ProbeRecord.from_json(json.dumps(data)) == record([0.5])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_their_names(name):
    preset = PRESETS[name]
    assert system(preset.layers, model=preset.model).name == name


def test_what_is_not_as_published_is_said():
    assert system().label == "cnn14-fusion"
    assert system((2, 6)).label == "cnn14_16k-2-6"
    unusual = system(weights="random:0", precision="fp16", head="max")
    assert unusual.label == "cnn14-fusion (random:0, fp16, max)"


def test_systems_do_not_overwrite_each_other(tmp_path):
    for one in (
        system(),
        system((6, 3)),
        system(precision="fp16"),
        system(head="max"),
        system(model="cnn14_32k"),
    ):
        record([0.5], of=one).save(tmp_path)
        record([0.5], of=one, task="esc50").save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 10


def test_folders_and_files(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    paths = [
        record([0.5], task=task).save(tmp_path / folder)
        for task, folder in (("gtzan", "in"), ("esc50", "in/deep"))
    ]
    (tmp_path / "in" / "layers.json").write_text("{}")
    assert {one.result.task for one in load_records([tmp_path])} == {"gtzan", "esc50"}
    assert [one.result.task for one in load_records(paths[::-1])] == ["esc50", "gtzan"]


def test_nothing_there(tmp_path):
    with pytest.raises(FusionEngineError, match="probe run ARTIFACT"):
        load_records([tmp_path])
    with pytest.raises(FusionEngineError, match="cannot be read"):
        load_records([tmp_path / "none.probe.json"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"format_version": 1', '"format_version": 99', 1),
        lambda text: text.replace('"precision"', '"colour"'),
        lambda text: text.replace('"predictions"', '"guesses"'),
        lambda text: "[]",
    ],
)
def test_a_damaged_record(tmp_path, spoil):
    path = record([0.5]).save(tmp_path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(FusionEngineError, match=r"gtzan\.probe\.json: no re"):
        ProbeRecord.load(path)


def test_it_is_whole_or_not_there(tmp_path):
    with pytest.raises(FusionEngineError, match="create the folder"):
        record([0.5]).save(tmp_path / "none")
    one = record([0.5])
    one.save(tmp_path)
    replace(one, title="again").save(tmp_path)
    assert [r.title for r in load_records([tmp_path])] == ["again"]
