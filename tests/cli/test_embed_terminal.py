"""What ``fusion-engine embed`` shows while it runs, and says at its end."""

import re
from pathlib import Path

import pytest

from .conftest import command, on_a_terminal, write_clip
from .tables import DIM, copies, failures, said

pytestmark = [pytest.mark.usefixtures("_here"), pytest.mark.heavy]


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
    assert shown.count(f"out.csv: 2 embeddings of {DIM} from 2 files") == 1
    assert shown.endswith("  not audio: 1 file (first: [red].wav)\r\n")


def test_a_narrow_terminal_cuts_no_message(artifact):
    long = "x" * 100 + ".wav"
    write_clip(Path("a.wav"))
    args = command("embed", artifact, "a.wav", long, "-o", "out.csv")
    shown = on_a_terminal(args, columns=30)[1]
    assert f"failed: {long}: No such file or directory" in shown


def test_no_progress_bar_elsewhere(shell, artifact):
    write_clip(Path("a.wav"))
    result = shell("embed", artifact, "a.wav", "-o", "out.csv", FORCE_COLOR="1", TERM="xterm")
    first, second = result.stderr.splitlines()
    assert first == f"out.csv: 1 embedding of {DIM} from 1 file"
    assert re.fullmatch(r"1 s of audio in \d\.\d s \(\S+ × real time\)", second)


AT_ONCE = """
from fusion_engine.cli import _plain, _progress
_plain.EVERY = _progress._LOOK_AFTER = _progress._NAME_AFTER = 0
"""


def lines_of(result):
    """Files, percent and the long file of every line of progress."""
    pattern = (
        r"Embedding: (\d+) of \d+ files \((\d+) %\), .+ of audio in [\d min]+ s"
        r"(?:, \S+ × real time, about \d+ \w+ left)?; (.+)"
    )
    lines = [line for line in result.stderr.splitlines() if line.startswith("Embedding")]
    return [re.fullmatch(pattern, line).groups() for line in lines]


def test_lines_of_progress_elsewhere(shell, artifact):
    result = shell("embed", artifact, copies(70), "-o", "out.csv", before=AT_ONCE)
    shown = lines_of(result)
    assert shown[0] == ("0", "0", "clips/0.wav")
    assert shown[1] == ("0", "1", "100 % of clips/0.wav")
    assert shown[-1] == ("69", "100", "100 % of clips/9.wav")
    assert result.stderr.splitlines()[-2] == f"out.csv: 70 embeddings of {DIM} from 70 files"


def test_progress_within_a_long_clip(shell, artifact):
    write_clip(Path("long.wav"), seconds=200)
    result = shell("embed", artifact, "long.wav", "-o", "out.parquet", before=AT_ONCE)
    percents = [int(name.split(" % of ")[0]) for _, _, name in lines_of(result)[1:-1]]
    assert percents == sorted(percents)
    assert len(set(percents)) > 5


def test_progress_within_a_long_recording(shell, artifact):
    write_clip(Path("long.wav"), seconds=200)
    write_clip(Path("next.wav"), seconds=5)
    files = ("long.wav", "next.wav")
    result = shell("embed", artifact, *files, "--window", "5", "-o", "out.parquet", before=AT_ONCE)
    shown = lines_of(result)
    assert shown[1:41] == [
        ("0", str(int(2.5 * n / 2)), f"{int(2.5 * n)} % of long.wav") for n in range(1, 41)
    ]
    assert shown[41] == ("1", "50", "next.wav")
    first, second = result.stderr.splitlines()[-2:]
    assert first == f"out.parquet: 41 embeddings of {DIM} from 2 files"
    assert re.fullmatch(r"3\.4 min of audio in [\d. min]+ s \(\S+ × real time\)", second)


def test_a_run_that_goes_on_tells_of_itself(shell, artifact):
    stop = """
import os
from fusion_engine.job import Job
finish = Job.finish
def finish_or_stop(self, path, **fields):
    finish(self, path, **fields)
    if path.name == "4.wav":
        self.flush()
        os._exit(9)
Job.finish = finish_or_stop
"""
    args = ("embed", artifact, copies(8), "-o", "out.csv")
    assert shell(*args, before=stop).status == 9
    result = shell(*args, before=AT_ONCE)
    assert lines_of(result)[0] == ("5", "62", "clips/5.wav")
    first, *_, table, speed = result.stderr.splitlines()
    assert first == "going on: 5 of 8 files are done, 5 rows are kept"
    assert table == f"out.csv: 8 embeddings of {DIM} from 8 files"
    assert speed.startswith("this run: 3 s of audio in ")


def test_many_failures_flood_nothing(cli, artifact):
    write_clip(Path("in/a.wav"))
    for number in range(50):
        Path(f"in/{number:02}.wav").touch()
    result = cli("embed", artifact, "in", "-o", "out.csv")
    lines = said(result)
    assert lines[:5] == [
        f"failed: in/{n:02}.wav: is empty (0 bytes), expected audio; copy or record it again"
        for n in range(5)
    ]
    assert lines[5:] == [
        "more files failed; their reasons will be in out.csv.errors.jsonl",
        f"out.csv: 1 embedding of {DIM} from 1 file",
        "50 of 51 files failed: out.csv.errors.jsonl",
        "  no samples: 50 files (first: in/00.wav)",
    ]
    assert len(failures("out.csv")) == 50
