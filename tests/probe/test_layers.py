"""The layer-wise study of CNN14 with random weights, on generated audio."""

import csv
import json
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest

from fusion_engine.artifact import read_spec
from fusion_engine.errors import ArtifactError
from fusion_engine.export import resolve
from fusion_engine.probe.choice import choose_layers
from fusion_engine.probe.layers import export_command, study_layers
from fusion_engine.probe.prober import Prober
from fusion_engine.probe.records import load_records
from fusion_engine.probe.tasks import read_task

from ..exports import with_layers

pytestmark = pytest.mark.heavy

PITCH, RHYTHM = "synthetic_pitch", "synthetic_rhythm"
# Test clips of the two tasks, for standard errors: 12 classes and 5, 10 of each.
CLIPS = {PITCH: 120, RHYTHM: 50}


@pytest.fixture(scope="module")
def study(layer_study):
    return json.loads((layer_study[0] / "layers.json").read_text())


@pytest.fixture(scope="module")
def accuracy(study):
    """Mean accuracy by task and by layers, ``"3"`` or ``"1+5"``."""
    return {
        name: {layers: fmean(values) for layers, values in task["accuracies"].items()}
        for name, task in study["tasks"].items()
    }


def standard_error(task, accuracy):
    return np.sqrt(accuracy * (1 - accuracy) / CLIPS[task])


def test_pitch_favours_early_layers(accuracy):
    """Block by block frequency resolution is lost, 64 mel bins to 2 and then none."""
    pitch = accuracy[PITCH]
    assert pitch["1"] - pitch["7"] > 3 * standard_error(PITCH, pitch["7"])
    assert fmean([pitch["1"], pitch["2"]]) > fmean([pitch["6"], pitch["7"]])


def test_rhythm_favours_late_layers(accuracy):
    """It needs a long view: a frame of block 1 sees 20 ms or so, of block 5 a second."""
    rhythm = accuracy[RHYTHM]
    assert rhythm["5"] - rhythm["1"] > 3 * standard_error(RHYTHM, rhythm["1"])


def test_fusion_is_at_least_as_good_as_the_late_layer_alone(layer_study, accuracy):
    """The paper's pair for CNN14, on a task for early layers and on one for late ones."""
    folder, _ = layer_study
    one = Prober.open(folder / "cnn14_16k-layers.onnx", cache=folder.parent / "cache" / "probe")
    fusion = {}
    for name in (PITCH, RHYTHM):
        (record,) = one.probe(read_task(name, folder.parent / "cache" / "synthetic"), [(3, 6)])
        fusion[name] = record.result.accuracy
        late = accuracy[name]["6"]
        assert fusion[name] >= late - standard_error(name, late)
        # The paper's baseline is the last layer.
        assert fusion[name] > accuracy[name]["7"]
    assert one.engine.stats.clips == 0  # all from the cache
    assert fmean(fusion.values()) >= fmean(values["6"] for values in accuracy.values())


def test_the_choice_follows_from_the_accuracies(study, accuracy):
    singles = {
        task: {int(layer): value for layer, value in values.items() if "+" not in layer}
        for task, values in accuracy.items()
    }
    choice = choose_layers(singles)
    assert (choice.middle, choice.late) == (study["middle"], study["late"])
    assert sorted(singles[PITCH]) == list(range(1, 8))
    assert study["export_command"] == (
        f"fusion-engine export cnn14_16k --layers {choice.middle} {choice.late} "
        f"--weights random:0 -o cnn14_16k_{choice.middle}_{choice.late}.onnx"
    )


def test_the_records_and_the_table_say_the_same(layer_study, accuracy):
    folder, _ = layer_study
    with (folder / "layers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    records = {(r.result.task, r.system.layers): r.result for r in load_records([folder])}
    assert len(rows) == len(records) == 2 * 8
    for row in rows:
        result = records[row["task"], tuple(map(int, row["layers"].split("+")))]
        assert float(row["accuracy"]) == pytest.approx(result.accuracy, abs=1e-6)
        assert float(row["std"]) == pytest.approx(result.std, abs=1e-6)
        assert accuracy[row["task"]][row["layers"]] == pytest.approx(result.accuracy)
        assert result.seeds == (0, 1, 2)


def test_the_pictures_are_there(layer_study):
    folder, _ = layer_study
    assert (folder / "layers.png").read_bytes().startswith(b"\x89PNG")
    svg = (folder / "layers.svg").read_text(encoding="utf-8")
    for text in ("Synthetic pitch", "Synthetic rhythm", "cnn14_16k, weights random:0"):
        assert text in svg


@pytest.fixture
def task(tmp_path):
    whole = read_task(RHYTHM, tmp_path / "audio")
    return replace(whole, examples=whole.examples[::3])


def prober(artifact, tmp_path, **options):
    options = {"seeds": [0], "max_epochs": 20, "threads": 1} | options
    return Prober.open(artifact, cache=tmp_path / "cache", **options)


def test_a_choice_is_the_artifact_with_these_layers(early, tmp_path, task):
    """The same predictions from an artifact that holds no others; their columns are apart."""
    layers = 3, 1
    (record,) = prober(early, tmp_path).probe(task, [layers])
    alone = with_layers(early, tmp_path / "alone.onnx", layers)
    (expected,) = prober(alone, tmp_path).probe(task)
    assert record.system == expected.system
    assert record.result == replace(expected.result, identity=record.result.identity)
    assert len(set(record.result.predictions[0])) > 2


def test_another_normalisation_is_said(early, tmp_path, task):
    """In what made the result, which a report goes by, and with its numbers in the notes."""
    usual = prober(early, tmp_path)
    (plain,) = usual.probe(task, [(1,)])
    (record,) = replace(usual, normalization=(-6.6, 5.1)).probe(task, [(1,)])
    assert record.system == replace(plain.system, normalized=True)
    assert record.file_name != plain.file_name
    numbers = "log-mel normalised with mean -6.6 and std 5.1"
    note = f"cnn14_16k-1 (random:0, task normalization): {numbers}"
    assert record.result.notes == (*plain.result.notes, note)


def test_one_pass_over_the_audio_serves_all_layers(early, tmp_path, task):
    shown = []
    one = prober(early, tmp_path, show=lambda *step: shown.append(step))
    saved = []
    study_layers(one, [task], save=saved.append)
    embedded = {done for what, done, _ in shown if what == "Synthetic rhythm: embedding"}
    assert max(embedded) == len(task.examples)
    assert one.engine.stats.clips == len(task.examples)
    assert [record.system.layers for record in saved][:3] == [(2,), (1,), (3,)]
    assert any(what == "Synthetic rhythm: training on 2" for what, _, _ in shown)


def test_layers_that_are_not_there(early, tmp_path, task):
    with pytest.raises(ArtifactError, match="has layers 2, 1, 3, and layers 5, 6 were asked for"):
        next(prober(early, tmp_path).probe(task, [(1,), (5, 6)]))


def test_one_layer_is_no_study(cnn14_artifact, tmp_path, task):
    with pytest.raises(ArtifactError, match=r"holds one layer, 1, .* --model NAME"):
        study_layers(prober(cnn14_artifact, tmp_path), [task])


@pytest.mark.parametrize("count", [0, 2])
def test_each_task_once(early, tmp_path, task, count):
    with pytest.raises(ValueError, match="expected one or more, each once"):
        study_layers(prober(early, tmp_path), [task] * count)


def test_the_export_command_names_what_is_not_the_default(early):
    spec = read_spec(early)
    command = export_command(spec, [1, 3])
    assert command is not None
    assert "--layers 1 3 --weights random:0 --frames 201 -o" in command
    path = replace(spec, weights=replace(spec.weights, source="my weights.pth"))
    assert "--weights 'my weights.pth'" in str(export_command(path, [1]))
    ast = resolve("ast")
    token = replace(spec, model="ast", max_frames=ast.max_frames, token="cls")
    assert str(export_command(token, [5, 12])).endswith("--token cls -o ast_5_12.onnx")
    assert export_command(replace(spec, model="mine"), [1]) is None
