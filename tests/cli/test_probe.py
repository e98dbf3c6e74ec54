"""``fusion-engine probe`` and its commands."""

import csv
import json
import os
import re
import shlex
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import soundfile
import typer

from fusion_engine import export as export_package
from fusion_engine.cli import app
from fusion_engine.export import Preset
from fusion_engine.probe.records import load_records
from fusion_engine.probe.tasks import TASKS

from .. import signals
from ..probe.builders import record, system
from .conftest import RATE, on_a_terminal
from .conftest import command as command_line

pytestmark = pytest.mark.heavy

GROUP = typer.main.get_command(app).commands["probe"]
COMMANDS = ["run", "layers", "report", "compare", "tasks"]
SPLITS = ["train"] * 6 + ["valid"] * 2 + ["test"] * 4


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSION_ENGINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
    """A small task of one's own: tones and noise."""
    folder = tmp_path_factory.mktemp("sounds")
    rows = []
    for label, sound in (("noise", signals.noise), ("tone", signals.tone)):
        for seed, split in enumerate(SPLITS):
            name = f"{label}-{seed}.wav"
            soundfile.write(folder / name, sound(0.5, RATE, seed), RATE)
            rows.append((name, label, split))
    with (folder / "sounds.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "label", "split"), *rows])
    return folder / "sounds.csv"


def folder(path="."):
    return sorted(p.name for p in Path(path).iterdir() if p.name != "cache")


def test_the_commands():
    assert list(GROUP.commands) == COMMANDS


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_80_columns_and_is_whole(cli, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    result = cli("probe", *filter(None, [name]), "--help")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: fusion-engine probe {name}".rstrip())
    assert max(map(len, result.stdout.splitlines())) <= 80
    for sign in ("\x1b", "\b", "``", "\\["):
        assert sign not in result.stdout
    command = GROUP.commands[name] if name else GROUP
    for parameter in command.params:
        for option in parameter.opts if parameter.param_type_name == "option" else ():
            assert option in result.stdout


def test_alone_it_shows_its_help(cli):
    result = cli("probe")
    assert result.status == 2
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z].*\.$", result.stderr, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_in_help_parse(cli, name):
    lines = cli("probe", name, "--help").stdout.splitlines()
    found = [shlex.split(line) for line in lines if line.startswith("    fusion-engine ")]
    assert found
    for line in found:
        assert line[:3] == ["fusion-engine", "probe", name]
        assert GROUP.commands[name].make_context(name, line[3:]).params


def test_tasks_lists_each_with_its_layout(cli):
    result = cli("probe", "tasks")
    assert (result.status, result.stderr) == (0, "")
    for name, info in TASKS.items():
        assert f"{name}: {info.title}\n" in result.stdout
        assert info.homepage in result.stdout
        assert info.size in result.stdout
        for line in info.layout.splitlines():
            assert line in result.stdout
    one = cli("probe", "tasks", "esc50").stdout
    assert one.startswith(
        "esc50: ESC-50\n  classes      50\n  clips        2000, cropped or padded to 5 s\n"
    )
    assert "gtzan" not in one
    unknown = cli("probe", "tasks", "voxforge").stdout
    assert "clips        as many as were downloaded, cropped or padded to 5.8 s\n" in unknown
    assert "there is no task 'esc5'" in cli("probe", "tasks", "esc5").stderr


def test_run_on_a_task_of_your_own(cli, two_layers, sounds):
    result = cli("probe", "run", two_layers, "--csv", sounds, "-o", "deep/results")
    assert result.status == 0, result.stderr
    assert result.stderr == "deep/results: 1 result of cnn14_16k-1-2 (random:0)\n"
    (one,) = load_records(["deep"])
    assert (one.result.task, one.result.seeds) == ("sounds", (0, 1, 2))
    mean, std = 100 * np.mean(one.result.accuracies), 100 * np.std(one.result.accuracies, ddof=1)
    assert result.stdout == f"sounds  {mean:.1f} ± {std:.1f} %\n"
    assert folder() == ["deep"]


def test_options_reach_the_probe(cli, two_layers, sounds):
    args = ["--csv", sounds, "--seconds", "0.2", "--seeds", "2", "--head", "max"]
    result = cli("probe", "run", two_layers, *args, "--cache", "mine", "--threads", "1")
    assert result.status == 0, result.stderr
    (one,) = load_records(["probe-results"])
    assert (one.result.seeds, one.system.head) == ((0, 1), "max")
    assert folder() == ["mine", "probe-results"]
    assert not Path("cache").exists()


def test_a_data_set_that_is_not_there(cli, two_layers):
    result = cli("probe", "run", two_layers, "-t", "esc50", "-d", "nowhere")
    assert (result.status, result.stdout) == (1, "")
    assert "meta/" in result.stderr
    assert "https://github.com/karolpiczak/ESC-50" in result.stderr
    assert folder() == []


def test_notes_of_a_task_are_said_aloud(cli, two_layers, tmp_path):
    """Three of Surge's 88 notes."""
    for note in range(21, 24):
        for tone in range(12):
            name = tmp_path / "surge" / f"tone{tone}" / f"{note}.ogg"
            name.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(name, signals.tone(0.1, RATE, tone), RATE)
    result = cli("probe", "run", two_layers, "-t", "surge", "-d", "surge", "--seeds", "1")
    assert result.status == 0, result.stderr
    assert "classes, the distributor's release has 88" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "a.onnx"], "give a task"),
        (["run", "a.onnx", "-t", "esc50", "-t", "esc50"], "give each once"),
        (["run", "a.onnx", "-t", "esc50", "-t", "gtzan", "-d", "a"], "give one for each"),
        (["run", "a.onnx", "-t", "synthetic", "-d", "a", "-d", "b"], "give one for each"),
        (["run", "a.onnx", "--csv", "a.csv", "-d", "b"], "give one for each"),
        (["run", "a.onnx", "-t", "synthetic", "--seconds", "1"], "have their own length"),
        (
            ["run", "a.onnx", "--csv", "a.csv", "--seconds", "0"],
            "'--seconds': 0, expected a length",
        ),
        (["run", "a.onnx", "--folder", "a", "--seconds", "-1"], "'--seconds': -1, expected"),
        (["run", "a.onnx", "--csv", "a.csv", "--seconds", "nan"], "'--seconds': nan, expected"),
        (["run", "a.onnx", "--csv", "a.csv", "--seconds", "long"], "'--seconds'"),
        (["run", "a.onnx", "-t", "synthetic", "--split-seed", "-1"], "'--split-seed'"),
        (["run", "a.onnx", "-t", "synthetic", "--split-list", "b"], "'--split-list': b: no --task"),
        (
            [
                "run",
                "a.onnx",
                *["-t", "gtzan", "-d", "a", "-t", "surge", "-d", "b", "--split-list", "c"],
            ],
            "'--split-list': c: is it for gtzan or surge?; expected NAME=FILE",
        ),
        (
            ["run", "a.onnx", *["-t", "gtzan", "-d", "a", "--exclude-list", "surge=b"]],
            "'--exclude-list': surge=b: expected a list for a --task that is",
        ),
        (
            [
                "run",
                "a.onnx",
                *["-t", "gtzan", "-d", "a", "--split-list", "b", "--split-list", "gtzan=c"],
            ],
            "'--split-list': two lists for gtzan",
        ),
        (["run", "a.onnx", "-t", "synthetic", "--seeds", "0"], "'--seeds'"),
        (["layers", "-t", "synthetic"], "give an ARTIFACT, or --model NAME"),
        (["layers", "a.onnx", "-m", "cnn14", "-t", "synthetic"], "give an ARTIFACT, or --model"),
        (["report", "-t", "synthetic"], "--task, --csv and --folder are for --model"),
        (["report", "-o", "a.txt"], "a.txt must end in .md or .csv or .tex"),
        (["compare", "a.onnx", "b.json"], "two artifacts or two results"),
        (["compare", "a.json", "b.json", "-t", "synthetic"], "results have their task"),
        (["compare", "a.onnx", "b.onnx", "--margin", "-1"], "'--margin'"),
        (["compare", "a.json", "b.json", "--margin", "nan"], "'--margin'"),
        (["compare", "a.json", "b.json", "--confidence", "nan"], "'--confidence'"),
        (["compare", "a.onnx", "b.onnx", "-o", "a.csv"], "a.csv must end in .json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(cli, args, message):
    result = cli("probe", *args)
    assert (result.status, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())
    assert folder() == []


@pytest.mark.parametrize("name", ["run", "layers"])
def test_tasks_of_one_name(cli, two_layers, sounds, name):
    """Their results would have one file, where the second would take the place of the first."""
    Path("other").mkdir()
    rows = sounds.read_text().splitlines()
    moved = [rows[0], *(f"{sounds.parent}/{row}" for row in rows[1:])]
    Path("other/sounds.csv").write_text("\n".join(moved))
    for args in (
        ["--csv", sounds, "--csv", "other/sounds.csv"],
        ["-t", "synthetic", "-t", "synthetic_pitch"],
    ):
        result = cli("probe", name, two_layers, *args)
        assert (result.status, result.stdout) == (2, "")
        assert "two tasks are named" in result.stderr
    assert folder() == ["other"]


def test_a_class_that_cannot_be_learnt_is_refused_before_the_work(cli, two_layers, sounds):
    """Also after another task, which would be done first."""
    text = sounds.read_text().replace("tone,train", "tone,test")
    bad = sounds.with_name("untrained.csv")
    bad.write_text(text)
    result = cli("probe", "run", two_layers, "--csv", sounds, "--csv", bad)
    assert (result.status, result.stdout) == (1, "")
    assert "untrained: class 'tone' has no example in train" in result.stderr
    assert folder() == []
    assert not Path("cache").exists()


def test_what_does_not_fit_the_artifact_is_wrong_usage(cli, two_layers, sounds):
    result = cli("probe", "run", two_layers, "--csv", sounds, "--normalization", "-4", "4")
    assert result.status == 2
    result = cli("probe", "run", two_layers, "--csv", sounds, "--train-device", "tpu")
    assert result.status == 2
    assert "expected 'cpu', 'cuda' or 'cuda:N'" in " ".join(result.stderr.split())


def test_an_unknown_device_is_answered_about_its_option(cli, two_layers, sounds):
    result = cli("probe", "run", two_layers, "--csv", sounds, "--train-device", "tpu")
    assert (result.status, result.stdout) == (2, "")
    assert "'--train-device': device is 'tpu', expected 'cpu', 'cuda'" in result.stderr


def test_folders_of_classes_are_a_task(cli, two_layers, sounds):
    """The sounds of the CSV, without it."""
    for path in sounds.parent.glob("*.wav"):
        kind = Path("kinds", path.name.partition("-")[0])
        kind.mkdir(parents=True, exist_ok=True)
        (kind / path.name).symlink_to(path)
    result = cli("probe", "run", two_layers, "--folder", "kinds", "--seeds", "1")
    assert result.status == 0, result.stderr
    assert result.stdout.startswith("kinds  ")
    assert "kinds: the split is drawn with seed 0, in each class alike: 16 / 4 / 4 clips" in (
        result.stderr
    )
    (one,) = load_records(["probe-results"])
    assert any("drawn with seed 0" in note for note in one.result.notes)
    other = cli("probe", "run", two_layers, "--folder", "kinds", "--seeds", "1", "--split-seed=3")
    assert "drawn with seed 3" in other.stderr
    assert load_records(["probe-results"])[0].result.examples != one.result.examples


def test_lists_reach_the_task(cli, two_layers, tmp_path):
    root = tmp_path / "surge"
    for tone in range(6):
        for note in (21, 22):
            name = root / f"tone{tone}" / f"{note}.ogg"
            name.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(name, signals.tone(0.1, RATE, tone), RATE)
    rows = [
        (f"tone{tone}/{note}.ogg", ("train", "train", "train", "val", "test", "test")[tone])
        for tone in range(6)
        for note in (21, 22)
    ]
    with Path("list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "split"), *rows])
    Path("gone.txt").write_text("tone5/22.ogg\n")
    args = ["-t", "surge", "-d", root, "--seeds", "1"]
    lists = ["--split-list", "list.csv", "--exclude-list", "surge=gone.txt"]
    result = cli("probe", "run", two_layers, *args, *lists)
    assert result.status == 0, result.stderr
    assert "Surge pitch: the split is that of list.csv: 6 / 2 / 4 clips in train" in result.stderr
    assert "Surge pitch: list.csv: took val for valid\n" in result.stderr
    assert "Surge pitch: left out 1 clip that gone.txt names\n" in result.stderr
    (one,) = load_records(["probe-results"])
    (fold,) = one.result.folds
    assert (fold.train, fold.valid, fold.test) == (6, 2, 3)


def test_results_are_told_as_they_come(two_layers, sounds):
    """Of two tasks the first, on standard output, before the second has begun."""
    import subprocess

    Path("birds.csv").write_text(
        "\n".join(
            [
                "file_name,label,split",
                *(f"{sounds.parent}/{row}" for row in sounds.read_text().splitlines()[1:]),
            ]
        )
    )
    stop = (
        "from fusion_engine.probe.prober import Prober; import os\n"
        "probe, seen = Prober.probe, []\n"
        "def once(self, *args):\n"
        "    seen.append(1)\n"
        "    if len(seen) > 1: os._exit(9)\n"
        "    return probe(self, *args)\n"
        "Prober.probe = once"
    )
    args = ["probe", "run", two_layers, "--csv", sounds, "--csv", "birds.csv", "--seeds", "1"]
    done = subprocess.run(
        command_line(*args, before=stop), capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 9
    assert re.fullmatch(r"sounds  \d+\.\d ± 0\.0 %\n", done.stdout)


def test_layers_of_an_artifact(cli, two_layers, sounds):
    result = cli("probe", "layers", two_layers, "--csv", sounds, "--seeds", "1", "-o", "out")
    assert result.status == 0, result.stderr
    header, row, average, *_ = (line.split() for line in result.stdout.splitlines())
    assert header[:3] == ["layer", "1", "2"]
    found = {r.system.layers: f"{100 * r.result.accuracy:.1f}" for r in load_records(["out"])}
    assert row[:3] == ["sounds", found[1,], found[2,]]
    assert average == ["average", *row[1:]]  # of one task
    for layer in (1, 2):
        told = f"sounds, cnn14_16k-{layer} (random:0): {found[layer,]} ± 0.0 %\n"
        assert told in result.stderr
    assert {"layers.json", "layers.csv", "layers.png", "layers.svg"} <= set(folder("out"))
    assert "cnn14_16k-1.random-0.sounds.probe.json" in folder("out")


def test_layers_of_a_model(layer_study):
    """The whole run of the README; its numbers are looked at in tests/probe/test_layers.py."""
    results, stdout = layer_study
    study = json.loads((results / "layers.json").read_text())
    lines = stdout.splitlines()
    fused = f"{study['middle']}+{study['late']}"
    assert lines[0].split() == ["layer", *map(str, range(1, 8)), fused]
    for line, task in zip(lines[1:], study["tasks"].values(), strict=False):
        accuracies = [f"{100 * np.mean(values):.1f}" for values in task["accuracies"].values()]
        assert line.split() == [*task["title"].split(), *accuracies]
    assert f"M          layer {study['middle']}" in lines
    assert f"export     {study['export_command']}" in lines
    assert f"cnn14_16k-{study['middle']}-{study['late']}" in " ".join(folder(results))


def test_report_of_results(cli, layer_study):
    result = cli("probe", "report", layer_study[0], "-o", "t.md", "-o", "t.csv", "-o", "t.tex")
    assert (result.status, result.stdout) == (0, "")
    assert folder() == ["t.csv", "t.md", "t.tex"]
    text = Path("t.md").read_text(encoding="utf-8")
    assert "| cnn14-last (random:0) | measured |" in text
    assert cli("probe", "report", layer_study[0]).stdout == text
    with Path("t.csv").open(newline="", encoding="utf-8") as file:
        tasks = {row["task"] for row in csv.DictReader(file)}
    assert tasks == {"synthetic_pitch", "synthetic_rhythm", "average"}


def test_report_runs_the_presets(cli, monkeypatch, sounds):
    """With two early blocks in place of the paper's layers, which are the same but slow."""
    presets = {
        "cnn14-last": Preset(name="cnn14-last", model="cnn14_16k", layers=(2,)),
        "cnn14-fusion": Preset(name="cnn14-fusion", model="cnn14_16k", layers=(1, 2)),
    }
    monkeypatch.setattr(export_package, "PRESETS", MappingProxyType(presets))
    args = ["--model", "cnn14", "--weights", "random:0", "--csv", sounds, "--seeds", "2"]
    result = cli("probe", "report", *args)
    assert result.status == 0, result.stderr
    for name in ("cnn14-last", "cnn14-fusion", "cnn14-fusion − cnn14-last"):
        assert f"| {name} (random:0) | measured |" in result.stdout
    assert folder() == ["probe-results"]
    assert folder("probe-results") == [
        f"{name}.random-0.sounds.probe.json" for name in sorted(presets)
    ]
    result = cli("probe", "report", "--model", "cnn14_32k", *args[2:])
    assert result.status == 2
    assert "has no presets" in result.stderr


def test_report_of_nothing(cli):
    result = cli("probe", "report", "-o", "t.md")
    assert (result.status, folder()) == (1, [])
    assert "probe-results" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["compare", "a.onnx", "b.onnx", "-t", "synthetic", "-o", "nowhere/out.json"],
        ["report", "-m", "cnn14", "-t", "synthetic", "-o", "nowhere/out.md"],
    ],
    ids=lambda args: args[0],
)
def test_where_nothing_can_be_written_nothing_is_done(cli, args):
    result = cli("probe", *args)
    assert (result.status, result.stdout, folder()) == (1, "", [])
    assert "cannot write nowhere/out" in result.stderr


def test_compare_an_artifact_with_itself(cli, two_layers, sounds):
    Path("a.onnx").symlink_to(two_layers)
    args = ["--csv", sounds, "--seeds", "1"]
    result = cli("probe", "compare", "a.onnx", "a.onnx", *args, "-o", "out.json")
    assert result.status == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    (found,) = json.loads(Path("out.json").read_text())
    accuracy = f"{100 * found['accuracy_a']:.1f} ± 0.0 %"
    assert lines == [
        "sounds",
        f"A {accuracy}, a.onnx: cnn14_16k-1-2 (random:0)",
        f"B {accuracy}, a.onnx: cnn14_16k-1-2 (random:0)",
        "B − A +0.00 points, 95 % interval +0.00 … +0.00 (8 test clips)",
        "agreement 100.0 % of the predictions are the same",
        "verdict B is not worse by more than 1 point",
    ]
    # Each as soon as it is there.
    assert result.stderr == "".join(
        f"{letter}: sounds, cnn14_16k-1-2 (random:0): {accuracy}\n" for letter in "AB"
    )
    assert (found["verdict"], found["agreement"], found["margin"]) == ("not worse", 1.0, 0.01)


@pytest.mark.parametrize(
    ("accuracy", "clips", "status", "words"),
    [
        (0.8, 1000, 0, "B is not worse by more than 1 point"),
        (0.6, 1000, 1, "B is worse by more than 1 point"),
        (0.75, 20, 1, "take more test clips, or allow a larger margin"),
    ],
)
def test_compare_results(cli, accuracy, clips, status, words):
    a = record([0.8, 0.8], clips=clips).save(".")
    b = record([accuracy] * 2, clips=clips, of=system(precision="fp16")).save(".")
    result = cli("probe", "compare", a, b)
    assert result.status == status
    assert words in result.stdout
    assert ("not shown to be as accurate on GTZAN" in result.stderr) == bool(status)


def test_other_clips_cannot_be_compared(cli):
    a = record([0.8]).save(".")
    b = record([0.8], examples="2" * 64, of=system(precision="fp16")).save(".")
    result = cli("probe", "compare", a, b)
    assert (result.status, result.stdout) == (1, "")
    assert "different clips" in result.stderr


def test_a_bar_on_a_terminal(two_layers, sounds):
    status, stderr = on_a_terminal(
        command_line("probe", "run", two_layers, "--csv", sounds, "--seeds", "1")
    )
    assert status == 0
    assert "sounds: embedding" in stderr or "sounds: training" in stderr
    assert "1 result of" in stderr
    # What has passed, and what is left.
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stderr)
    assert re.search(r"\d:\d\d:\d\d left (\d|-):", plain)


def test_no_torch_is_needed_to_look_around(shell):
    forbidden = "import sys; sys.modules.update(torch=None, sklearn=None, matplotlib=None)"
    for args in (["--help"], ["tasks"]):
        assert shell("probe", *args, before=forbidden).status == 0
    one = record([0.8]).save(os.curdir)
    assert shell("probe", "report", one.name, before=forbidden).status == 0
    result = shell("probe", "run", "a.onnx", "--task", "synthetic_rhythm", before=forbidden)
    assert result.status == 1
    assert 'pip install ".[probe]"' in result.stderr
