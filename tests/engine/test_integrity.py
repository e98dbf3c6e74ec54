"""The SHA-256 in the report beside an artifact is checked at opening."""

import hashlib
import json
import os

import numpy as np
import onnx
import pytest

import fusion_engine as fe
from fusion_engine.engine import integrity

from .cuda.artifacts import CHUNKED, write_artifact


@pytest.fixture
def path(tmp_path):
    path = write_artifact(tmp_path / "a.onnx", CHUNKED)
    report = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    path.with_name("a.onnx.json").write_text(json.dumps(report))
    return path


def test_a_changed_bit_is_found(path):
    with fe.Engine(path, device="cpu") as engine:
        assert np.isfinite(engine.embed(np.zeros(16_000, np.float32))).all()
    data = bytearray(path.read_bytes())
    was = hashlib.sha256(data).hexdigest()
    weight = onnx.load(path).graph.initializer[0].raw_data
    data[data.index(weight)] ^= 1  # it loads, and gives other embeddings
    path.write_bytes(data)
    now = hashlib.sha256(data).hexdigest()
    with pytest.raises(fe.ArtifactError, match=rf"{now}.*a\.onnx\.json says {was}.*delete the rep"):
        fe.Engine(path, device="cpu")
    path.with_name("a.onnx.json").unlink()
    fe.Engine(path, device="cpu")


def test_it_comes_before_what_the_library_says(path):
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(fe.ArtifactError, match="the file is damaged or another one") as error:
        fe.Engine(path, device="cpu")
    assert isinstance(error.value.__cause__, fe.ArtifactError)


@pytest.mark.parametrize("report", ["", "{", "[]", "{}", '{"sha256": 3}', "\udcff", "[" * 100_000])
def test_a_report_that_states_nothing_is_no_reason_to_refuse(path, report, caplog):
    text = report.encode("utf-8", "surrogateescape")
    path.with_name("a.onnx.json").write_bytes(text)
    fe.Engine(path, device="cpu")
    readable = report in ("[]", "{}", '{"sha256": 3}')
    assert ("the artifact was not checked" in caplog.text) is not readable


def test_a_file_is_read_once_while_it_stays_the_same(path, monkeypatch):
    read = []
    whole = integrity.file_sha256
    monkeypatch.setattr(integrity, "file_sha256", lambda p: read.append(p) or whole(p))
    fe.Engine(path, device="cpu")
    fe.Engine(path, device="cpu")
    assert len(read) == 1
    os.utime(path, ns=(0, 0))
    fe.Engine(path, device="cpu")
    assert len(read) == 2
