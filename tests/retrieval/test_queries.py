"""What queries stand for, and which engines may embed them."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import fusion_engine as fe
from fusion_engine.output import Row
from fusion_engine.retrieval.queries import Audio, TableRow, open_engine, parse_query
from fusion_engine.table_reader import open_table

from .. import signals
from ..engine.cuda.artifacts import CHUNKED, PADDED, write_artifact
from .tables import clustered, spec_of, write_table

PARTS = [(0.0, 5.0), (2.5, 7.5), (5.0, 10.0)]
ROWS = [
    *(Row(path="day.wav", start=start, end=end, duration=10.0) for start, end in PARTS),
    Row(path="a@1-2", end=3.0, duration=3.0),
    Row(path="caf\\udce9.wav", end=1.0, duration=1.0),
    Row(path="a", start=1.0, end=2.0, duration=9.0),
]


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return open_table(write_table(Path("x.parquet"), clustered(len(ROWS), 8), rows=ROWS))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.wav", Audio("a.wav")),
        ("a.wav@3.5-6.0", Audio("a.wav", 3.5, 6.0)),
        ("a.wav@3-", Audio("a.wav", 3.0, None)),
        ("a.wav@-.5", Audio("a.wav", None, 0.5)),
        ("a.wav@-", Audio("a.wav@-")),
        ("a@b@1-2", Audio("a@b", 1.0, 2.0)),
        ("me@home-2.wav", Audio("me@home-2.wav")),
        ("a.wav@1e3-2e3", Audio("a.wav@1e3-2e3")),
        (Path("a.wav@1-2"), Audio("a.wav@1-2")),
        ("./row:x", Audio("./row:x")),
        ("x" * 5000 + "@1-2", Audio("x" * 5000, 1.0, 2.0)),
        ("row:#0", TableRow(0)),
        ("row:#5", TableRow(5)),
        ("row:day.wav@2.5-", TableRow(1)),
        ("row:day.wav@-10.0004", TableRow(2)),
        ("row:day.wav@5-10", TableRow(2)),
        ("row:a@1-2", TableRow(3)),
        ("row:a", TableRow(5)),
        ("row:caf\udce9.wav", TableRow(4)),
    ],
    ids=lambda value: str(value)[:20].encode("ascii", "replace").decode(),
)
def test_what_a_query_is(text, expected, table):
    assert parse_query(text, table.rows) == expected


def test_a_file_that_is_there_is_that_file(table):
    Path("a.wav@1-2").touch()
    assert parse_query("a.wav@1-2", table.rows) == Audio("a.wav@1-2")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a.wav@3-3", ValueError, "the part ends at 3 s, expected after 3 s"),
        ("a.wav@-0", ValueError, "the part ends at 0 s"),
        ("row:#6", fe.FusionEngineError, "the table has 6 rows, expected row:#0 to row:#5"),
        ("row:b.wav", fe.FusionEngineError, "no such path. Its paths .*: day.wav, a@1-2"),
        (
            "row:day.wav",
            fe.FusionEngineError,
            r"3 of the rows of day.wav, expected one. There are row:#0 \(0-5 s\), row:#1 \(2.5-",
        ),
        ("row:day.wav@1-2", fe.FusionEngineError, "none of the rows of day.wav, expected one"),
    ],
)
def test_what_is_none(text, error, message, table):
    with pytest.raises(error, match=message):
        parse_query(text, table.rows)


def test_channels_are_told_apart(tmp_path):
    rows = [Row(path="a.wav", channel=n, end=1.0, duration=1.0) for n in (1, 2)]
    table = open_table(write_table(tmp_path / "x.npz", clustered(2, 8), rows=rows))
    with pytest.raises(fe.FusionEngineError, match=r"row:#1 \(0-1 s, channel 2\)"):
        parse_query("row:a.wav", table.rows)
    (found,) = fe.search(table, "row:#0")
    assert [match.channel for match in found] == [2]


@pytest.fixture
def sounds(tmp_path, monkeypatch):
    """An artifact, clips, and a table of 2-second windows of them under another head."""
    monkeypatch.chdir(tmp_path)
    write_artifact(Path("chunked.onnx"), CHUNKED)
    for seed in range(3):
        soundfile.write(f"{seed}.wav", signals.noise(8.0, 16_000, seed), 16_000)
    spec = replace(CHUNKED, head="max")
    rows, embeddings = [], []
    with fe.Engine("chunked.onnx", device="cpu") as engine:
        stream = engine.embed_stream(
            [(f"{seed}.wav", f"{seed}.wav") for seed in range(3)], window=2.0, head="max"
        )
        for path, start, end, result in stream:
            rows.append(Row(path=path, start=start, end=end, duration=8.0))
            embeddings.append(result)
    return write_table(Path("windows.parquet"), np.stack(embeddings), rows=rows, spec=spec)


def test_a_part_of_a_file_finds_its_window(sounds):
    found = fe.search(sounds, ["1.wav@4-6", "2.wav@-2", Path("0.wav")], 3, engine="chunked.onnx")
    nearest = [(matches[0].path, matches[0].start, matches[0].end) for matches in found]
    assert nearest[:2] == [("1.wav", 4.0, 6.0), ("2.wav", 0.0, 2.0)]
    assert [matches[0].similarity for matches in found[:2]] == pytest.approx([1.0, 1.0], abs=1e-12)


def test_the_heads_are_the_tables(sounds):
    """With an engine that was opened for another one."""
    with fe.Engine("chunked.onnx", device="cpu") as engine:
        (found,) = fe.search(sounds, "1.wav@4-6", 1, engine=engine, metric="l2")
        assert found[0].distance == 0.0
        clip, _ = soundfile.read("1.wav", dtype="float32", start=64_000, stop=96_000)
        by_hand = engine.embed(clip, head="max")
    (again,) = fe.search(sounds, by_hand, 1, metric="l2")
    assert again == found


def test_a_file_that_cannot_be_embedded(sounds):
    Path("broken.wav").write_bytes(b"RIFF....WAVE")
    for query in ("broken.wav", "1.wav@20-30", "missing.wav"):
        with pytest.raises(fe.AudioError, match=re.escape(query.split("@")[0])):
            fe.search(sounds, query, engine="chunked.onnx")


def test_audio_needs_an_engine(sounds):
    message = f"1.wav: to embed it .* chunked, layers 2 [+] 1, .*SHA-256 {'0' * 64}: give it"
    with pytest.raises(fe.FusionEngineError, match=message):
        fe.search(sounds, "1.wav")


@pytest.mark.parametrize(
    ("spec", "differences"),
    [
        (PADDED, r"model chunked in the table, padded in the engine; layers \[2, 1\]"),
        (
            replace(CHUNKED, weights=replace(CHUNKED.weights, sha256="f" * 64)),
            f"weights {'0' * 16} in the table, {'f' * 16} in the engine",
        ),
    ],
)
def test_another_space_is_refused(sounds, spec, differences):
    write_artifact(Path("other.onnx"), spec)
    with pytest.raises(fe.FusionEngineError, match=f"(?s)the engine's of .*{differences}"):
        fe.search(sounds, "1.wav", engine="other.onnx")


def test_a_table_without_a_space(sounds):
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(sounds).replace_schema_metadata(None), "bare.parquet")
    assert fe.search("bare.parquet", "row:#0") == fe.search(sounds, "row:#0")
    with pytest.raises(fe.FusionEngineError, match="does not say of which embedding space"):
        fe.search("bare.parquet", "1.wav", engine="chunked.onnx")


def test_the_normalisation_is_the_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_artifact(Path("padded.onnx"), PADDED)
    soundfile.write("a.wav", signals.noise(2.0, 16_000, 0), 16_000)
    with fe.Engine("padded.onnx", device="cpu", normalization=(-5.0, 3.0)) as engine:
        embedding, spec = engine.embed("a.wav"), engine.spec
    table = write_table(Path("x.csv"), embedding[None], spec=spec)
    (found,) = fe.search(table, "a.wav", engine="padded.onnx", metric="l2")
    assert found[0].distance == 0.0
    with (
        fe.Engine("padded.onnx", device="cpu") as engine,
        pytest.raises(fe.FusionEngineError, match=r"frontend \{'mean': -5.0, 'std': 3.0\} in"),
    ):
        fe.search(table, "a.wav", engine=engine)
    with open_engine("padded.onnx", open_table(table)) as engine:
        assert engine.spec.space == spec.space


def test_spaces_of_the_helpers():
    assert spec_of(8).space != spec_of(9).space
