"""The picture of the layer-wise study, read back."""

import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from fusion_engine.errors import BackendError, FusionEngineError
from fusion_engine.probe.picture import draw_layers

LAYERS = (2, 5, 8, 10, 13, 15, 18, 20, 22)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def study():
    rng = np.random.default_rng(0)
    tasks = [f"Task {number}" for number in range(10)]
    accuracy = {task: dict(zip(LAYERS, rng.random(len(LAYERS)), strict=True)) for task in tasks}
    return accuracy, {task: dict.fromkeys(LAYERS, 0.02) for task in tasks}


def draw(path, study, **marked):
    draw_layers(path, *study, title="VGGish & others", marked=marked)
    return path


def test_svg_has_a_line_for_each_task_through_its_values(tmp_path, study):
    root = ElementTree.parse(draw(tmp_path / "layers.svg", study, M=10, L=15)).getroot()
    texts = ["".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")]
    assert {*study[0], *map(str, LAYERS), "M", "L", "VGGish & others", "layer"} <= set(texts)
    # Drawn lines: a style of their own, and as many points as there are layers.
    paths = [(path.get("d"), path.get("style") or "") for path in root.iter(f"{SVG}path")]
    lines = [
        (np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", d), float), style)
        for d, style in paths
        if len(re.findall("[ML] ", d)) == len(LAYERS) and "fill: none" in style
    ]
    assert len(lines) == len({style for _, style in lines}) == len(study[0])
    for (points, _), values in zip(lines, study[0].values(), strict=True):
        height = points[:, 1]
        expected = np.array([values[layer] for layer in LAYERS])
        # SVG's y axis points down; the points have six decimals.
        assert np.corrcoef(height, -expected)[0, 1] == pytest.approx(1.0, abs=1e-9)


def test_png_is_a_picture(tmp_path, study):
    pixels = imread(draw(tmp_path / "layers.png", study))
    assert pixels.shape[1] == 1050
    assert pixels[..., :3].std() > 0.1


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_same_input_same_bytes(tmp_path, study, suffix):
    one, two = (draw(tmp_path / f"{name}{suffix}", study).read_bytes() for name in "ab")
    assert one == two


def test_nothing_half_drawn(tmp_path, study):
    with pytest.raises(FusionEngineError, match="create the folder"):
        draw(tmp_path / "none" / "layers.png", study)
    accuracy, _ = study
    with pytest.raises(KeyError):
        draw(tmp_path / "layers.png", (accuracy, {}))
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib(tmp_path, study, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendError, match=r'pip install "\.\[probe\]"'):
        draw(tmp_path / "layers.png", study)
