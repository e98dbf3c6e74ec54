"""What the documents say to type is understood, and what needs nothing that is not here is run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer

from fusion_engine.cli import app

from . import signals
from .cli.in_process import invoke
from .exports import exported
from .map.tables import write_table
from .test_package import find_command

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.wav"))
# Snippets that contain these are only read: nothing here has what they need.
NEEDS = {
    "pretrained": "published weights",
    "cnn14-fusion recordings": "published weights",
    "--preset": "published weights",
    ".pth": "a checkpoint",
    ".plan": "a GPU, or minutes to build",
    "--task": "a data set, or minutes to train",
    "birds": "a data set",
    "esc50": "a data set",
    "probe report": "results",
    "embed cnn14_3_6.int8": "what quantize wrote",
    "quantize vggish": "an export of another model",
    "ray": "a cluster; tests/ray has one",
    "serve": "a service that does not end; tests/serve has one",
    "openai": "a service",
    "tritonclient": "a server",
}
SLOW = ("parity", "certify", "export_module", "quantize")


def commands(page):
    """The indented lines of a page that begin with the command, continued ones in one."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in re.findall(r"^ {4}(fusion-engine .*)$", text, re.MULTILINE)]


def words(line):
    """As a shell takes it: a comment begins with a word, and ``row:#0`` is none."""
    return shlex.split(re.sub(r"(^|\s)#.*", "", line))


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def cases(snippets):
    return [
        pytest.param(
            snippet,
            marks=[pytest.mark.slow] if any(word in snippet for word in SLOW) else [],
            id=f"{page.stem}-{index}",
        )
        for page in PAGES
        for index, snippet in enumerate(snippets(page))
    ]


def runnable(found):
    return [
        case
        for case in found
        if not any(need in case.values[0] for need in NEEDS) or is_readme(case)
    ]


def is_readme(case):
    """Its Python names a model that has an artifact of that name here."""
    return case.id == "README-0" and "import" in case.values[0]


@pytest.mark.parametrize("line", cases(commands))
def test_commands_are_understood(line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    program, *args = words(line)
    command, args = find_command(typer.main.get_command(app).commands, args)
    assert program == "fusion-engine"
    command.make_context(command.name, args)


def test_every_reason_to_run_nothing_is_needed():
    everything = "\n".join(case.values[0] for case in cases(commands) + cases(blocks))
    assert not [need for need in NEEDS if need not in everything]


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    """What the snippets name: an artifact of CNN14 with random weights, and audio."""
    folder = tmp_path_factory.mktemp("snippets")
    source = exported(shared, "snippets", "cnn14", weights="random:0", layers=[3, 6])
    for path in source.path.parent.glob(f"{source.path.name}*"):
        (folder / path.name.replace("cnn14", "cnn14_3_6")).symlink_to(path)
    (folder / "recordings" / "inner").mkdir(parents=True)
    for path, name in zip(EXAMPLES, ("a.wav", "inner/b.wav"), strict=False):
        shutil.copy(path, folder / "recordings" / name)
    clip, rate = soundfile.read(EXAMPLES[0])
    for name in ("clip.wav", "c.flac", "more.flac"):
        soundfile.write(folder / name, clip, rate)
    soundfile.write(folder / "day.wav", signals.speech_like(12.0, 16_000), 16_000)
    (folder / "files.txt").write_text("recordings/a.wav\nclip.wav\n")
    paths = ["recordings/a.wav", "recordings/inner/b.wav", "clip.wav"]
    write_table(folder / "clips.parquet", paths, np.eye(3))
    (folder / "kinds.csv").write_text("path,kind\nrecordings/a.wav,bell\n")
    # What docs/search.md searches.
    for line in (
        "embed cnn14_3_6.onnx clip.wav day.wav recordings -o sounds.parquet",
        "embed cnn14_3_6.onnx day.wav --window 5 --hop 2.5 -o day.parquet",
        "index day.parquet -o day.usearch",
    ):
        command = [sys.executable, "-m", "fusion_engine", *line.split()]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.heavy
@pytest.mark.parametrize("line", runnable(cases(commands)))
def test_commands_run(line, folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = invoke(*words(line)[1:])
    assert result.exit_code == 0, result.output


def sessions():
    """Commands that README shows with what they print, as a person sees it."""
    text = re.sub(r"^ {4}", "", PAGES[0].read_text("utf-8"), flags=re.MULTILINE)
    found = re.findall(r"^\$ (.*)\n((?:(?! *\$ |\n).*\n)*)", text, re.MULTILINE)
    assert len(found) >= 3
    return found


def numbers_open(text):
    lines = re.sub(r"\d+\.\d+ s \([\d.]+ ×|0\.\d{5}| \d+ %", "#", text).splitlines()
    return [line.rstrip() for line in lines]


@pytest.mark.heavy
def test_readme_shows_what_is_printed(folder, tmp_path):
    for name in ("cnn14_3_6.onnx", "cnn14_3_6.onnx.json"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for line, printed in sessions():
        done = subprocess.run(
            line.replace("fusion-engine", f"{sys.executable} -m fusion_engine"),
            shell=True,
            cwd=tmp_path,
            env=dict(os.environ, OMP_NUM_THREADS="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        hint = "UMAP shows more"  # where it is not installed
        shown = [row for row in numbers_open(done.stdout) if not row.startswith(hint)]
        assert shown == numbers_open(printed)


# What README's example has of its reader.
PREAMBLE = """
import numpy as np
samples = np.sin(np.arange(16_000, dtype=np.float32))
batch, a, b = np.stack([samples, samples]), samples, samples[:9_000]
"""


@pytest.mark.heavy
@pytest.mark.parametrize("block", runnable(cases(blocks)))
def test_python_runs(block, folder):
    block = PREAMBLE + block.replace('"cnn14-fusion"', '"cnn14_3_6.onnx"')
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    command = [sys.executable, "-c", block]
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
