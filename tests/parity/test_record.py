"""Certificates beside their artifacts, and those of plans."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fusion_engine import ArtifactError, BackendError
from fusion_engine.artifact import file_sha256, report_path
from fusion_engine.engine.devices import find_gpu
from fusion_engine.engine.tensorrt import build
from fusion_engine.engine.tensorrt.sidecar import read_sidecar
from fusion_engine.parity import Certificate, certify
from fusion_engine.parity.record import record
from fusion_engine.parity.subject import shortest_input

from ..gpu import tensorrt_missing
from .conftest import SHORT


@pytest.fixture(scope="module")
def certificate(cnn14_artifact: Path) -> Certificate:
    return certify(cnn14_artifact, signals=SHORT[:1], precision="bf16")


@pytest.fixture
def copied(cnn14_artifact: Path, tmp_path: Path) -> Path:
    artifact = tmp_path / cnn14_artifact.name
    for source in (cnn14_artifact, report_path(cnn14_artifact)):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    return artifact


def test_a_report_keeps_one_for_each_precision(copied: Path, certificate: Certificate) -> None:
    before = json.loads(report_path(copied).read_text())
    assert record(certificate, copied) == report_path(copied)
    fp32 = certify(copied, signals=SHORT[:1])
    record(fp32, copied)
    after = json.loads(report_path(copied).read_text())
    assert after.pop("parity") == {"bf16": certificate.to_dict(), "fp32": fp32.to_dict()}
    assert after == before


def test_no_report_is_no_error(copied: Path, certificate: Certificate) -> None:
    report_path(copied).unlink()
    assert record(certificate, copied) is None
    assert not report_path(copied).exists()


def test_the_report_of_another_file_is_left_alone(copied: Path, certificate: Certificate) -> None:
    before = report_path(copied).read_bytes()
    copied.write_bytes(copied.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match=r"not the bytes that the certificate of cnn14_1\.onnx"):
        record(certificate, copied)
    assert record(replace(certificate, artifact_sha256=file_sha256(copied)), copied) is None
    assert report_path(copied).read_bytes() == before


@pytest.mark.rtx
def test_a_plan_keeps_its_certificate(
    cnn14_artifact: Path, certificate: Certificate, tmp_path: Path
) -> None:
    plan = tmp_path / "small.plan"
    build(cnn14_artifact, plan, precision="bf16", runtime="tensorrt_rtx", seconds=(2, 2, 4))
    assert shortest_input(plan) == 201
    certificate = replace(certificate, artifact_sha256=file_sha256(plan))
    assert record(certificate, plan) == report_path(plan)
    sidecar = read_sidecar(plan)
    assert sidecar is not None
    assert sidecar.parity == certificate.to_dict()
    with pytest.raises(ArtifactError, match=r"is in bf16, expected fp32 to emulate fp16"):
        certify(plan, precision="fp16")
    try:
        find_gpu()
    except BackendError:
        with pytest.raises(BackendError):
            certify(plan, signals=SHORT[:1])
    report_path(plan).unlink()
    assert record(certificate, plan) is None


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_plan_passes_on_its_gpu(cnn14_artifact: Path, precision, tmp_path: Path) -> None:
    reason = tensorrt_missing()
    if reason is not None:
        pytest.skip(reason)
    plan = tmp_path / "small.plan"
    build(cnn14_artifact, plan, precision=precision)
    certificate = certify(plan, signals=SHORT)
    assert certificate, certificate.failures or certificate.problems
    assert not certificate.emulated
    assert {comparison.input for comparison in certificate.comparisons} == {"end_to_end"}
