import numpy as np
import pytest

from fusion_engine import FusionEngineError
from fusion_engine.map import Map, draw_map
from fusion_engine.map.recordings import EMBEDDED_MAX_BYTES
from fusion_engine.table_reader import open_table

from .tables import write_table

PATHS = ["in/a/1.wav", "in/a/2.wav", "in/b/3.wav", "in/b/3.wav"]


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "t.parquet", PATHS, np.eye(4), start=[0, 0, 0, 1])


def test_what_was_drawn(table, tmp_path):
    (tmp_path / "in/b").mkdir(parents=True)
    (tmp_path / "in/b/3.wav").write_bytes(b"x")
    (tmp_path / "labels.csv").write_text("path,kind\nin/a/1.wav,dog\nin/b/3.wav,cat\n")
    made = draw_map(
        open_table(table),
        tmp_path / "map.html",
        method="pca",
        colour_by="kind",
        labels=tmp_path / "labels.csv",
        audio_root=tmp_path,
    )
    assert made == Map(
        rows=4,
        method="pca",
        text="PCA, the first two components with 67 % of the variance",
        groups=2,
        unlabelled=1,
        recordings=3,
        missing=2,
    )


def test_the_progress(table, tmp_path):
    steps = []
    draw_map(table, tmp_path / "m.html", method="pca", progress=lambda *step: steps.append(step))
    assert steps == [("Projecting", 4 * read, 32) for read in range(9)]


@pytest.mark.parametrize("name", ["map.htm", "map", "map.jpg"])
def test_another_suffix(table, tmp_path, name):
    with pytest.raises(ValueError, match=r"must end in \.html or \.png or \.pdf or \.svg"):
        draw_map(table, tmp_path / name)


@pytest.mark.parametrize("wrong", [{"colour_by": "kind"}, {"labels": "labels.csv"}])
def test_a_column_and_its_labels_go_together(table, tmp_path, wrong):
    with pytest.raises(ValueError, match="expected 'folder' alone, or a column and the CSV"):
        draw_map(table, tmp_path / "map.html", **wrong)


def test_recordings_too_large_to_embed(table, tmp_path):
    (tmp_path / "in/a").mkdir(parents=True)
    with (tmp_path / "in/a/1.wav").open("wb") as file:
        file.truncate(EMBEDDED_MAX_BYTES + 1)
    with pytest.raises(FusionEngineError, match="32 MB are too much to embed in a page"):
        draw_map(table, tmp_path / "m.html", method="pca", audio_root=tmp_path, embed_audio=True)
    assert not (tmp_path / "m.html").exists()


def test_a_value_that_is_not_finite(tmp_path):
    table = write_table(tmp_path / "t.npz", PATHS, np.full((4, 2), np.nan))
    with pytest.raises(FusionEngineError, match=r"row 0 \(in/a/1.wav\) is not finite"):
        draw_map(table, tmp_path / "map.html")
