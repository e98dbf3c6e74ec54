"""Artifacts whose weights are in a second file."""

import hashlib
import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import fusion_engine as fe
from fusion_engine import ExportError
from fusion_engine.artifact import read_report, read_spec
from fusion_engine.export import export_module, files
from fusion_engine.frontend import FRONTENDS, Frontend

from .. import signals

PANNS = FRONTENDS["panns_16k"]


def wide(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 8))


def attempt(module, path):
    return export_module(module, path, layers=["1"], frontend=PANNS, frames=50)


@pytest.fixture
def small_files(monkeypatch):
    """What one file holds ends at 10 kB; protobuf's real limit is 2 GB."""
    monkeypatch.setattr(files, "MOST_BYTES", 10_000)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_files(tmp_path, small_files):
    module, path = wide(0), tmp_path / "wide.onnx"
    report = attempt(module, path)
    data = tmp_path / "wide.onnx.data"
    assert sorted(tmp_path.iterdir()) == [path, data, tmp_path / "wide.onnx.json"]
    assert (report.bytes, report.external_bytes) == (path.stat().st_size, data.stat().st_size)
    assert report.external_bytes >= 4 * (64 * 128 + 128 * 8) > report.bytes
    locations = {
        entry.value
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert locations == {"wide.onnx.data"}
    kept = json.loads((tmp_path / "wide.onnx.json").read_text())
    assert (kept["sha256"], kept["external_sha256"]) == (sha256(path), sha256(data))
    assert read_report(path) == kept
    assert read_spec(path) == report.spec
    x = signals.tone(0.49, 16_000)
    with torch.no_grad():
        expected = module(torch.from_numpy(Frontend(PANNS).batch([x]))).numpy()
    got = fe.Engine(path).layer_outputs(x)["layer_1"]
    assert np.abs(got - expected).max() <= 5e-6 * np.abs(expected).max()
    # Weights of another export are noticed.
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    assert read_report(path) is None


def test_the_pair_is_replaced_as_one(tmp_path, small_files, monkeypatch):
    path = tmp_path / "wide.onnx"
    attempt(wide(0), path)
    old = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def refused(*arguments):
        raise ExportError("not these")

    with monkeypatch.context() as patched:
        patched.setattr("fusion_engine.export.exporter.verify", refused)
        with pytest.raises(ExportError, match="not these"):
            attempt(wide(1), path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == old
    attempt(wide(1), path)
    assert sorted(tmp_path.iterdir()) == sorted(old)
    assert read_report(path) is not None
    assert all(file.read_bytes() != content for file, content in old.items())


def test_the_limit_is_what_protobuf_takes():
    assert 2**31 - 2**27 < files.MOST_BYTES < 2**31
