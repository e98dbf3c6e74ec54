"""What an actor does with a batch, without Ray."""

import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import soundfile

import fusion_engine as fe
from fusion_engine.ray.embedder import REFUSED, RayEmbedder, Wanted

from .. import signals

RATE = 16_000
WHOLE = Wanted(
    window=None,
    hop=None,
    tail="half",
    head=None,
    channel="mix",
    partial=False,
    dtype="float32",
    normalization=None,
)


@pytest.fixture
def embedder(cnn14_artifact, tmp_path):
    def make(errors="column", **wanted):
        return RayEmbedder(
            str(cnn14_artifact),
            replace(WHOLE, **wanted),
            errors=errors,
            base=str(tmp_path),
            device="cpu",
            threads=1,
            memory_limit=None,
        )

    return make


@pytest.fixture
def write(tmp_path):
    def write(name, seconds=2.0, channels=1, scale=1.0):
        clip = signals.speech_like(seconds, RATE) * np.float32(scale)
        with (tmp_path / os.fsdecode(name)).open("wb") as file:
            soundfile.write(
                file, np.stack([clip] * channels, 1), RATE, format="WAV", subtype="FLOAT"
            )
        return name

    return write


def run(embedder, rows):
    return pa.concat_tables(embedder(pa.Table.from_pylist(rows))).to_pylist()


def test_a_part_that_fails_takes_no_other_with_it(embedder, write):
    name = write("a.wav")
    parts = [(0.5, 1.0), (7.0, 8.0), (None, 0.5), (1.5, None)]
    rows = run(embedder(), [{"path": name, "start": s, "end": e} for s, e in parts])
    good = {(row["start"], row["end"]) for row in rows if row["error"] is None}
    assert good == {(0.5, 1.0), (0.0, 0.5), (1.5, 2.0)}
    (bad,) = [row for row in rows if row["error"]]
    assert (bad["start"], bad["end"], bad["embedding"], bad["duration"]) == (7.0, 8.0, None, None)
    assert "has no samples from 7 s on" in bad["error"]


def test_rows_do_not_depend_on_the_others_of_the_batch(embedder, write, cnn14_artifact):
    rows = [{"path": write("a.wav"), "start": s, "end": s + 0.5} for s in (0.0, 0.3, 1.2)]
    actor = embedder()
    together = run(actor, rows)
    assert together == [row for part in rows for row in run(actor, [part])]
    assert len(run(actor, [rows[0], rows[0]])) == 2


@pytest.mark.parametrize(("start", "end"), [(-1.0, 1.0), (1.0, 1.0), (np.nan, 1.0), (0.0, np.inf)])
def test_a_part_that_is_none(embedder, write, start, end):
    (row,) = run(embedder(), [{"path": write("a.wav"), "start": start, "end": end}])
    assert "expected seconds from 0 on, start before end" in row["error"]


def test_columns_and_flags(embedder, write):
    names = [write("a.wav", channels=2), write("loud.wav", scale=100)]
    actor = embedder(channel="all", window=1.0, dtype="float16", errors="raise")
    (table,) = actor(pa.table({"path": names, "label": [1, 2]}))
    expected = ["path", "channel", "start", "end", "duration", "partial", "silent", "clipped_scale"]
    assert table.column_names == [*expected, "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 2048)
    assert not any(field.nullable for field in table.schema)
    assert table["channel"].to_pylist() == [1, 2, 1, 2, 1, 1]
    assert table["clipped_scale"].to_pylist() == [False] * 4 + [True] * 2
    assert set(table["duration"].to_pylist()) == {2.0}
    keys = {b"fusion_engine", b"fusion_engine_job", b"fusion_engine_space"}
    assert set(table.schema.metadata) == keys


def test_an_embedding_beyond_float16_is_an_error_of_its_file(embedder, write, monkeypatch):
    actor = embedder(dtype="float16")
    embed_items = actor._engine.embed_items

    def large(items, **options):
        for event, result in embed_items(items, **options):
            yield event, result if result is None or "b" not in event.key else result + 1e6

    monkeypatch.setattr(actor._engine, "embed_items", large)
    rows = run(actor, [{"path": write(f"{name}.wav")} for name in "abc"])
    assert {row["path"] for row in rows if row["error"] is None} == {"a.wav", "c.wav"}
    assert "the largest float16" in next(row["error"] for row in rows if row["error"])


def test_large_outputs_come_in_pieces(embedder, write, monkeypatch):
    monkeypatch.setattr("fusion_engine.ray.embedder._OUTPUT_BYTES", 1)
    pieces = list(embedder()(pa.table({"path": [write(f"{name}.wav") for name in "abc"]})))
    assert [len(piece) for piece in pieces] == [1, 1, 1, 0]


def test_names_that_are_no_text(embedder, write):
    name = b"\xff.wav"
    rows = run(embedder(), [{"path": write(name)}])
    assert [(row["path"], row["error"]) for row in rows] == [("\\udcff.wav", None)]


def test_what_cannot_be_embedded(embedder, write, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    given = [
        {"path": "empty", REFUSED: "no audio in this folder"},
        {"path": "broken.wav"},
        {"path": "missing.wav"},
        {"path": write("a.wav")},
    ]
    rows = {row["path"]: row for row in run(embedder(), given)}
    assert rows["empty"]["error"] == "no audio in this folder"
    assert "broken.wav" in rows["broken.wav"]["error"]
    assert "missing.wav" in rows["missing.wav"]["error"]
    assert rows["a.wav"]["error"] is None
    assert len(rows["a.wav"]["embedding"]) == 2048
    with pytest.raises(fe.AudioError, match="no audio in this folder"):
        run(embedder(errors="raise"), given)


def test_datasets_without_paths(embedder):
    with pytest.raises(ValueError, match="the columns \\['file'\\], expected `path`"):
        run(embedder(), [{"file": "a.wav"}])
    with pytest.raises(ValueError, match="a row of the dataset has no path"):
        run(embedder(), [{"path": None}])


def test_wrong_settings_are_refused_before_the_first_batch(embedder):
    with pytest.raises(ValueError, match="head"):
        embedder(head="median")
    with pytest.raises(ValueError, match="window is"):
        embedder(window=-1.0)
