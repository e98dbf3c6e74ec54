import re
from io import StringIO
from pathlib import Path

import pytest
import soundfile
from rich.cells import cell_len
from rich.console import Console

from fusion_engine.cli import _plain, _progress
from fusion_engine.cli._pace import Pace
from fusion_engine.cli._progress import EmbedProgress

from .test_pace import Clock


def drawn(progress, width):
    """The lines of a terminal so wide."""
    console = Console(width=width, file=StringIO(), force_terminal=True, color_system=None)
    console.print(progress)
    return console.file.getvalue().splitlines()


def run_of(total, kept=0, todo=()):
    clock = Clock()
    return clock, EmbedProgress(Pace(total, kept, clock=clock), [Path(path) for path in todo])


def half_way():
    clock, progress = run_of(800_000, 345_678)
    for _ in range(100):
        clock.now += 1
        progress.clip(0, 360)
        progress.end(360)
    return progress


FACTS = [
    *("Embedding", "BAR", "345778/800000 files", "10.00 h of audio", "360 × real time"),
    *("1:40", "127 h left"),
]


@pytest.mark.parametrize(
    ("width", "dropped"),
    [
        (120, ""),
        (100, ""),
        (90, "Embedding"),
        (80, "Embedding, 10.00 h of audio"),
        (70, "Embedding, 10.00 h of audio"),
        (60, "Embedding, 10.00 h of audio, 1:40"),
        (59, "Embedding, BAR, 10.00 h of audio, 1:40"),
    ],
)
def test_what_a_line_tells_at_each_width(width, dropped):
    (line,) = drawn(half_way(), width)
    assert re.split(r" {2,}", re.sub("━+╸?", "BAR", line)) == [
        fact for fact in FACTS if fact not in dropped.split(", ")
    ]


def test_nothing_is_cut_or_wrapped():
    progress = half_way()
    for width in range(19, 140):
        (line,) = drawn(progress, width)
        assert cell_len(line) <= width
        assert {*re.split(r" {2,}", re.sub("━+╸?", "BAR", line))} <= {*FACTS}


def test_the_bar_moves_within_a_long_file(tmp_path):
    """With the length that its header states; below is its name."""
    path = tmp_path / f"{'long ' * 20}.wav"
    soundfile.write(path, [0.0] * 8_000 * 120, 8_000)
    clock, progress = run_of(1, todo=[path])
    filled = list[int]()
    for start in range(0, 100, 5):
        clock.now += 1
        progress.clip(start, start + 5)
        filled.append(drawn(progress, 60)[0].count("━"))
    assert filled == sorted(filled)
    assert len(set(filled)) > 8
    bar, name = drawn(progress, 60)
    assert "4 s left" in bar
    assert name.startswith(f"  83 % of {tmp_path}"[:59])
    assert name.endswith("…")
    assert cell_len(name) == 60
    progress.end(120)
    assert len(drawn(progress, 60)) == 1


def test_a_long_file_that_states_no_length(tmp_path):
    (tmp_path / "x\x1b[2J\ny.m4a").write_bytes(b"????ftyp")
    clock, progress = run_of(2, todo=[tmp_path / "x\x1b[2J\ny.m4a", tmp_path / "no.wav"])
    clock.now += 6
    progress.clip(0, 60)
    bar, name = drawn(progress, 200)
    assert "1.0 min of audio  10 × real time  0:06" in bar
    assert name == f"  {tmp_path}/x?[2J?y.m4a"


def test_headers_are_looked_at_once_and_of_long_files_only(monkeypatch):
    looked = []
    monkeypatch.setattr(_progress, "stated_seconds", lambda path: looked.append(path.name))
    clock, progress = run_of(3, todo=["a", "b", "c"])
    for seconds in (0.5, 0.1, 9):
        for start in range(4):
            clock.now += seconds
            progress.clip(start, start + 1)
        progress.end(4)
    assert looked == ["a", "c"]


def test_a_line_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(_plain, "EVERY", 0)
    clock, progress = run_of(400, 100, todo=["a.wav", "b.wav"])
    clock.now += 4
    progress.clip(0, 7_200)
    progress.end(7_200)
    clock.now += 16
    progress.clip(0, 7_200)
    assert capsys.readouterr().err.splitlines() == [
        "Embedding: 100 of 400 files (25 %), 2.00 h of audio in 4 s, 1800 × real time, about "
        "20 min left",
        "Embedding: 101 of 400 files (25 %), 2.00 h of audio in 4 s, 1800 × real time, about "
        "20 min left",
        "Embedding: 101 of 400 files (25 %), 4.00 h of audio in 20 s, 720 × real time, about "
        "50 min left; b.wav",
    ]
