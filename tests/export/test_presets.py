import pytest

from fusion_engine import ExportError
from fusion_engine.export.presets import PRESETS, preset


def test_the_systems_of_the_paper():
    # Table III's systems: layers of Tables I and II, and the sizes that follow.
    assert {(p.name, p.model, p.layers, p.dim) for p in PRESETS.values()} == {
        ("cnn14-last", "cnn14_16k", (7,), 2048),
        ("cnn14-fusion", "cnn14_16k", (3, 6), 6144),
        ("vggish-last", "vggish", (22,), 128),
        ("vggish-fusion", "vggish", (10, 15), 8192),
        ("ast-last", "ast", (12,), 768),
        ("ast-fusion", "ast", (5, 12), 1536),
    }


def test_an_unknown_preset():
    with pytest.raises(ExportError, match=r"unknown preset 'cnn14'; the presets are cnn14-last"):
        preset("cnn14")
