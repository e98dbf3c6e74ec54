"""``fusion-engine search`` and ``index``."""

import json
import os
import pty
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.cells import cell_len

import fusion_engine as fe
from fusion_engine.output import Row
from fusion_engine.retrieval import build

from .. import signals
from ..engine.cuda.artifacts import CHUNKED, write_artifact
from ..retrieval.tables import clustered, write_table
from .conftest import command
from .test_main import examples

HOSTILE = ["[red]a[/].wav", "b\x1b[31m\n\t.wav", "長い" * 40 + ".wav", "d" * 300 + "/end.wav"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def table():
    rows = [Row(path=path, end=86399.5, duration=9e4) for path in HOSTILE]
    rows += [Row(path=f"{n}.wav", start=n, end=n + 1.5, duration=9.0) for n in range(40)]
    return write_table(Path("x.parquet"), clustered(len(rows), 32), rows=rows)


@pytest.fixture
def sounds():
    """An artifact, two clips and their table, by the command."""
    write_artifact(Path("chunked.onnx"), CHUNKED)
    for seed in range(2):
        soundfile.write(f"{seed}.wav", signals.noise(4.0, 16_000, seed), 16_000)


def embed(cli, *more):
    assert cli("embed", "chunked.onnx", "0.wav", "1.wav", "-o", "x.parquet", *more).status == 0


def test_json(cli, table):
    result = cli("search", table, "row:7.wav", "row:#3", "-k", "3", "--json")
    assert (result.status, result.stderr) == (0, "")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["query"] for line in lines] == ["row:7.wav", "row:#3"]
    expected = fe.search(table, ["row:7.wav", "row:#3"], 3)
    for line, matches in zip(lines, expected, strict=True):
        assert (line["metric"], line["exact"]) == ("cosine", True)
        assert line["matches"] == [
            {
                "row": match.row,
                "path": match.path,
                "start": match.start,
                "end": match.end,
                "similarity": match.similarity,
            }
            for match in matches
        ]
    result = cli("search", table, "row:#3", "--metric", "l2", "--json", "--include-self")
    (line,) = map(json.loads, result.stdout.splitlines())
    assert line["metric"] == "l2"
    assert line["matches"][0]["row"] == 3
    assert line["matches"][0]["distance"] == 0.0
    assert len(line["matches"]) == 10


def test_the_table(cli, table):
    result = cli("search", table, "row:7.wav", "-k", "2")
    assert (result.status, result.stderr) == (0, "")
    first, heading, _, *rows = result.stdout.splitlines()
    assert first == "row:7.wav"
    assert heading.split() == ["similarity", "start", "end", "path"]
    (matches,) = fe.search(table, "row:7.wav", 2)
    assert [row.split() for row in rows] == [
        [f"{m.similarity:.5f}", f"{m.start:.3f}", f"{m.end:.3f}", m.path] for m in matches
    ]
    assert "distance" in cli("search", table, "row:7.wav", "--metric", "l2").stdout


def test_whole_paths_where_no_terminal_is(cli, table):
    result = cli("search", table, "row:7.wav", "-k", "100")
    assert len(result.stdout.splitlines()) == 3 + 43
    assert "\x1b" not in result.stdout
    for shown in ("[red]a[/].wav", "b\\x1b[31m\\n\\t.wav", *HOSTILE[2:]):
        assert any(line.rstrip().endswith(f" {shown}") for line in result.stdout.splitlines())


@pytest.mark.parametrize("columns", [60, 80])
def test_it_fits_a_terminal(table, columns):
    terminal, stdout = pty.openpty()
    done = subprocess.run(
        command("search", table, "row:7.wav", "-k", "100"),
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=os.environ | {"TERM": "xterm", "COLUMNS": str(columns)},
        timeout=60,
    )
    os.close(stdout)
    shown = b""
    try:
        while part := os.read(terminal, 65_536):
            shown += part
    except OSError:
        pass  # Linux: the other side is closed
    os.close(terminal)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown.decode()).splitlines()
    assert len(lines) == 3 + 43
    assert max(map(cell_len, lines)) <= columns
    assert any("…" in line and line.rstrip().endswith("/end.wav") for line in lines)


def test_channels_have_a_column(cli):
    rows = [Row(path="a.wav", channel=n % 2 + 1, end=1.0, duration=1.0) for n in range(4)]
    table = write_table(Path("x.parquet"), clustered(4, 8), rows=rows)
    result = cli("search", table, "row:#0", "-k", "1")
    assert result.stdout.splitlines()[1].split()[3:] == ["channel", "path"]
    result = cli("search", table, "row:#0", "-k", "1", "--json")
    assert json.loads(result.stdout)["matches"][0]["channel"] in (1, 2)


def test_files_and_parts(cli, sounds):
    embed(cli, "--window", "2")
    result = cli("search", "x.parquet", "1.wav@2-", "0.wav", "-e", "chunked.onnx", "--json")
    assert (result.status, result.stderr) == (0, "")
    part, whole = map(json.loads, result.stdout.splitlines())
    assert (part["matches"][0]["path"], part["matches"][0]["start"]) == ("1.wav", 2.0)
    assert part["matches"][0]["similarity"] == pytest.approx(1.0)
    assert whole["matches"][0]["path"] == "0.wav"


def test_an_engine_of_another_space(cli, sounds):
    embed(cli)
    weights = replace(CHUNKED.weights, sha256="1" * 64)
    write_artifact(Path("other.onnx"), replace(CHUNKED, weights=weights))
    result = cli("search", "x.parquet", "0.wav", "-e", "other.onnx")
    assert (result.status, result.stdout) == (1, "")
    assert "weights 0000000000000000 in the table, 1111111111111111 in the engine" in result.stderr
    result = cli("search", "x.parquet", "0.wav")
    assert result.status == 1
    assert "give it as the engine (--engine)" in result.stderr


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["x.parquet", "a.wav@3-2"], 2, "the part ends at 2 s, expected after 3 s"),
        (["x.parquet", "row:#99"], 1, "the table has 44 rows"),
        (["x.parquet", "row:none.wav"], 1, "no such path"),
        (["missing.parquet", "row:#0"], 1, "missing.parquet: no such table"),
        (["x.parquet"], 2, "Missing argument 'QUERY'"),
        (["x.parquet", "row:#0", "-k", "0"], 2, "'-k'"),
        (["x.parquet", "row:#0", "--index", "no.usearch"], 1, "no.usearch: no such file"),
        (["x.parquet", "a.wav", "-e", "no.onnx"], 1, "no.onnx: no such file"),
    ],
    ids=str,
)
def test_what_goes_wrong(cli, table, args, status, message):
    result = cli("search", *args)
    assert (result.status, result.stdout) == (status, "")
    assert message in result.stderr


@pytest.mark.parametrize("name", ["search", "index"])
def test_the_examples_of_the_help_run(cli, sounds, name):
    embed(cli, "--window", "2")
    for target, source in (
        ("embeddings.parquet", "x.parquet"),
        ("windows.parquet", "x.parquet"),
        ("cnn14_3_6.onnx", "chunked.onnx"),
        ("clip.wav", "0.wav"),
    ):
        Path(target).symlink_to(source)
    soundfile.write("day.wav", signals.noise(8.0, 16_000, 5), 16_000)
    for example in examples(cli, name):
        example = ["row:#0" if word == "row:recordings/a.wav" else word for word in example]
        assert cli(name, *example).status == 0, example


def test_an_index(cli):
    table = write_table(Path("x.parquet"), clustered(600, 32), dtype="float16")
    result = cli("index", table, "-o", "x.usearch")
    assert (result.status, result.stdout) == (0, "")
    info = json.loads(Path("x.usearch.json").read_text())
    size = Path("x.usearch").stat().st_size / 1e6
    assert result.stderr == (
        f"x.usearch: 600 rows of 32, {size:.1f} MB, recall@10 {info['recall_at_10']:.3f} against "
        "exact search, of 100 rows\n"
    )
    exact = cli("search", table, "row:#3", "row:#300", "--json")
    found = cli("search", table, "row:#3", "row:#300", "--json", "--index", "x.usearch")
    assert found.stderr == ""
    pairs = zip(*(map(json.loads, r.stdout.splitlines()) for r in (exact, found)), strict=True)
    for one, other in pairs:
        assert (one.pop("exact"), other.pop("exact")) == (True, False)
        assert one == other
    result = cli("search", table, "row:#3", "--metric", "l2", "--index", "x.usearch")
    assert result.status == 1
    assert "x.usearch: metric cosine, expected l2; build it again: fusion-engine" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_index_leaves_nothing(cli, table, number, monkeypatch):
    Path("x.usearch").write_text("old")
    recall = build._recall

    def stop(*args):
        os.kill(os.getpid(), number)
        return recall(*args)

    monkeypatch.setattr(build, "_recall", stop)
    assert cli("index", table, "-o", "x.usearch").status == 128 + number
    assert sorted(path.name for path in Path().iterdir()) == ["x.parquet", "x.usearch"]
    assert Path("x.usearch").read_text() == "old"


def test_an_index_is_not_put_over_its_table(cli, table):
    Path("x.usearch").symlink_to(table)
    result = cli("index", table, "-o", "x.usearch")
    assert (result.status, result.stdout) == (1, "")
    assert "it is the input x.parquet" in result.stderr
    assert cli("index", table, "-o", "x.index").status == 2


def test_nothing_heavy_is_needed_for_rows(shell, tmp_path):
    write_table(tmp_path / "x.parquet", clustered(20, 8))
    before = "import sys; sys.modules.update(onnxruntime=None, usearch=None, torch=None)"
    assert shell("search", "x.parquet", "row:#0", before=before).status == 0
    result = shell("index", "x.parquet", "-o", "x.usearch", before=before)
    assert result.status == 1
    assert "usearch, which builds and searches indexes, cannot be imported" in result.stderr
    assert 'pip install ".[search]"' in result.stderr


def test_values_of_the_table_are_finite(cli):
    embeddings = clustered(20, 8)
    embeddings[7, 0] = np.nan
    table = write_table(Path("x.parquet"), embeddings)
    result = cli("search", table, "row:#0")
    assert result.status == 1
    assert "the embedding of row 7 (7.wav) is not finite" in result.stderr
