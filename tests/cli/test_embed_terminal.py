"""What ``fusion-engine embed`` shows while it runs, and says at its end."""

import re
from pathlib import Path

import pytest

from .conftest import command, on_a_terminal, write_clip
from .tables import DIM, copies

pytestmark = pytest.mark.usefixtures("_here")


def test_a_progress_bar_on_a_terminal(artifact):
    for name in ("a.wav", "b.wav"):
        write_clip(Path(name))
    Path("[red].wav").write_text("hello, this is text")
    files = ["a.wav", "[red].wav", "b.wav"]
    status, shown = on_a_terminal(command("embed", artifact, *files, "-o", "out.csv"))
    assert status == 1
    assert "Embedding" in shown
    assert "3/3" in shown
    assert "failed: [red].wav: is text" in shown
    assert shown.count(f"out.csv: 2 embeddings of {DIM}") == 1


def test_a_narrow_terminal_cuts_no_message(artifact):
    long = "x" * 100 + ".wav"
    write_clip(Path("a.wav"))
    args = command("embed", artifact, "a.wav", long, "-o", "out.csv")
    shown = on_a_terminal(args, columns=30)[1]
    assert f"failed: {long}: No such file or directory" in shown


def test_no_progress_bar_elsewhere(shell, artifact):
    write_clip(Path("a.wav"))
    result = shell("embed", artifact, "a.wav", "-o", "out.csv", FORCE_COLOR="1", TERM="xterm")
    assert result.stderr == f"out.csv: 1 embedding of {DIM}\n"


def test_lines_of_progress_elsewhere(shell, artifact):
    result = shell(
        *("embed", artifact, copies(70), "-o", "out.csv"),
        before="from fusion_engine.cli import _plain; _plain.EVERY = _plain._AT_ONCE = 0",
    )
    *lines, last = result.stderr.splitlines()
    assert last == f"out.csv: 70 embeddings of {DIM}"
    assert re.fullmatch(r"Embedding: 0 of 70 \(0 %\), 0 s", lines[0])
    pattern = r"Embedding: (\d+) of 70 \((\d+) %\), \d+ s, about \d+ s left"
    shown = [re.fullmatch(pattern, line).groups() for line in lines[1:]]
    assert shown[0] == ("1", "1")
    assert shown[-1] == ("69", "98")
