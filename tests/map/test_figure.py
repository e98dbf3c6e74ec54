import re
import sys

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from fusion_engine import BackendError
from fusion_engine.map import draw_map
from fusion_engine.map.groups import LIGHT

from .tables import HOSTILE, write_table

CORNERS = np.repeat([[1, 1], [-1, 1], [-1, -1]], 4, axis=0) * [3.0, 1.0]
PATHS = [f"{group}/{n}.wav" for group in ("left", "$x$", "_right") for n in range(4)]


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "t.parquet", PATHS, CORNERS)


def test_points_have_the_colours_of_their_groups(table, tmp_path):
    draw_map(table, tmp_path / "map.png", method="pca")
    image = imread(tmp_path / "map.png")
    assert image.shape == (1320, 1800, 4)
    for colour in LIGHT[:3]:
        # Through the alpha of points, on white; where several lie, less of the white is left.
        shares = [0.8 * np.array(to_rgb(colour)) + 0.2, np.array(to_rgb(colour))]
        near = [np.abs(image[..., :3] - share).max(axis=-1) < 0.02 for share in shares]
        assert sum(n.sum() for n in near) > 300
    assert not (np.abs(image[..., :3] - to_rgb(LIGHT[3])).max(axis=-1) < 0.02).any()


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF-"), (".svg", b"<?xml")]
)
def test_the_same_table_gives_the_same_bytes(table, tmp_path, suffix, magic):
    pictures = [tmp_path / f"{n}{suffix}" for n in range(2)]
    for picture in pictures:
        made = draw_map(table, picture, method="pca")
    assert made.missing == 0
    first, second = (picture.read_bytes() for picture in pictures)
    assert first == second
    assert first.startswith(magic)


def test_names_in_the_legend(table, tmp_path):
    """A dollar begins no formula, and an underscore hides nothing."""
    with rc_context({"svg.fonttype": "none"}):
        draw_map(table, tmp_path / "map.svg", method="pca")
    text = (tmp_path / "map.svg").read_text(encoding="utf-8")
    shown = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert {"$x$ (4)", "left (4)", "\u200b_right (4)", "folder", "PC 1", "PC 2"} <= set(shown)


def test_hostile_names(tmp_path, caplog):
    embeddings = np.random.default_rng(0).standard_normal((len(HOSTILE), 4))
    folders = [f"{path.replace('/', '')}/x.wav" for path in HOSTILE]
    table = write_table(tmp_path / "t.parquet", folders, embeddings)
    draw_map(table, tmp_path / "map.png", method="pca")
    assert imread(tmp_path / "map.png").shape == (1320, 1800, 4)
    (message,) = caplog.messages
    assert "音" in message
    assert "font.family" in message


def test_without_matplotlib(table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendError, match=r"pip install .*\[map\].*, or write an .html"):
        draw_map(table, tmp_path / "map.png", method="pca")
    assert not (tmp_path / "map.png").exists()
