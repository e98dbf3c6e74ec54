"""What the documents say to type is understood, and what needs nothing that is not here is run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import typer
from typer.testing import CliRunner

from fusion_engine.cli import app

from . import signals
from .cli.in_process import state_kept
from .exports import exported
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
    program, *args = shlex.split(line, comments=True)
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
    return folder


@pytest.mark.heavy
@pytest.mark.parametrize("line", runnable(cases(commands)))
def test_commands_run(line, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with state_kept():
        result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
    assert result.exit_code == 0, result.output


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
