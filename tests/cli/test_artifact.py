"""``fusion-engine embed`` with a name in place of an artifact."""

import re
from pathlib import Path

import numpy as np
import pytest

import fusion_engine as fe
from fusion_engine import export as exporters
from fusion_engine.export import Preset

from .conftest import write_clip
from .tables import said


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSION_ENGINE_CACHE", str(tmp_path / "cache"))
    small = Preset(name="small", model="cnn14_16k", layers=(1,))
    monkeypatch.setattr(exporters, "PRESETS", {"small": small})
    write_clip(Path("in/a.wav"))
    return tmp_path / "cache"


def test_a_name_is_exported_once(cli, cache, cnn14_artifact):
    first = cli("embed", "small", "--weights", "random:0", "in", "-o", "first.npz")
    (path,) = (cache / "artifacts").glob("*.onnx")
    assert (first.status, first.stdout) == (0, "")
    begun, *_, done, last = said(first)
    assert begun == "small: exporting it into the cache, once"
    assert re.fullmatch(
        rf"small: exported and certified in \d+\.\d s: {re.escape(str(path))}", done
    )
    assert last == "first.npz: 1 embedding of 2048 from 1 file"

    second = cli("embed", "small", "-w", "random:0", "in", "-o", "second.npz")
    assert said(second) == ["second.npz: 1 embedding of 2048 from 1 file"]
    expected = fe.Engine(cnn14_artifact).embed(["in/a.wav"])
    for output in ("first.npz", "second.npz"):
        np.testing.assert_array_equal(np.load(output)["embeddings"], expected)


@pytest.mark.parametrize("artifact", ["a.onnx", "./small", "file"])
def test_weights_are_for_a_name(cli, artifact):
    Path("file").write_bytes(b"")
    result = cli("embed", artifact, "in", "-w", "pretrained", "-o", "out.csv")
    assert result.status == 2
    assert f"'--weights': {artifact} is a path" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["smal"], "error: smal: no such file, and no preset or model"),
        (["./small"], "error: small: no such file."),
        (["small", "-w", "no.pth"], "error: weights no.pth: No such file"),
    ],
)
def test_what_is_no_artifact(cli, cache, args, message):
    result = cli("embed", *args, "in", "-o", "out.csv")
    assert result.status == 1
    assert result.stderr.startswith(message)
    assert not Path("out.csv").exists()
    assert not cache.exists()
