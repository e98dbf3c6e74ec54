"""``fusion-engine models``."""

from pathlib import Path

import pytest

from fusion_engine.export import backbones
from fusion_engine.weights import WEIGHTS

FORBIDDEN = "import sys; sys.modules.update(torch=None, onnxruntime=None, onnxscript=None)"


def test_every_model_is_listed(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSION_ENGINE_CACHE", str(tmp_path))
    (tmp_path / WEIGHTS["cnn14_32k"].name).touch()
    result = cli("models")
    assert (result.status, result.stderr) == (0, "")
    assert {line.split()[0] for line in result.stdout.splitlines() if line[0] != " "} == {
        *(backbone.name for backbone in backbones().values()),
        "presets",
        "fusion-engine",
    }
    assert result.stdout.endswith("fusion-engine embed NAME takes every name, of a preset too\n")
    block = result.stdout[result.stdout.index("cnn14_32k\n") :].splitlines()[:12]
    file = WEIGHTS["cnn14_32k"]
    # The paper's Table II, but for block 6, whose 2048 channels by 2 frequencies are 4096.
    assert block == [
        "cnn14_32k",
        "  sample rate  32000 Hz",
        "  layers       1: map [64, T, 32], time pool 16, D 2048",
        "               2: map [128, T, 16], time pool 8, D 2048",
        "               3: map [256, T, 8], time pool 4, D 2048",
        "               4: map [512, T, 4], time pool 2, D 2048",
        "               5: map [1024, T, 2], time pool 1, D 2048",
        "               6: map [2048, T, 2], time pool 1, D 4096",
        "               7: vector [2048]",
        "  default      3 + 6, D = 6144",
        f"  pretrained   {file.name}, in the cache",
        f"               {file.url}",
    ]
    ast = result.stdout[result.stdout.index("\nast\n") :].splitlines()
    assert ast[3] == "  layers       1…12: vector [768]"
    assert result.stdout.count("vector [768]") == 1
    vggish = result.stdout[result.stdout.index("\nvggish\n") :].splitlines()
    assert vggish[5] == "               8, 10: map [256, T, 16], time pool 4, D 4096"
    assert "  vggish-fusion  vggish, 10 + 15, D = 8192\n" in result.stdout
    assert f"{WEIGHTS['cnn14_8k'].name}, not downloaded yet\n" in result.stdout
    assert "cnn14_16k (or cnn14)\n" in result.stdout


@pytest.mark.parametrize("columns", [60, 80])
def test_it_fits(cli, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = cli("models").stdout.splitlines()
    long = [line for line in lines if len(line) > columns]
    assert all("https://" in line or len(line.split()[-1]) > 45 for line in long)  # one name each
    assert any("https://" in line for line in long)


def test_neither_torch_nor_a_runtime_is_needed(shell):
    result = shell("models", before=FORBIDDEN)
    assert result == shell("models")
    assert result.status == 0


def test_no_cache_is_made(shell, tmp_path):
    shell("models", FUSION_ENGINE_CACHE=str(tmp_path / "cache"))
    assert list(Path(tmp_path).iterdir()) == []
