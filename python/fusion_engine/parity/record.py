"""Certificates kept beside their artifacts."""

import json
import os
from pathlib import Path

from .._atomic import atomic_path
from ..artifact import file_sha256, read_report, report_path
from ..errors import ArtifactError
from .certificate import Certificate


def record(certificate: Certificate, artifact: str | os.PathLike[str]) -> Path | None:
    """Put the certificate into ``NAME.plan.json`` or ``NAME.onnx.json``, if the artifact has one.

    A plan's sidecar holds one under ``parity``; the report of an export holds one for each
    precision, ``parity.fp32`` and so on.

    Returns:
        the file; ``None`` where there is none for exactly this artifact.

    Raises:
        ArtifactError: the certificate is another file's, or the plan's sidecar is damaged or
            another plan's.
        FusionEngineError: it cannot be written.
    """
    if file_sha256(artifact) != certificate.artifact_sha256:
        raise ArtifactError(
            f"{os.fspath(artifact)}: not the bytes that the certificate of {certificate.artifact} "
            "is about; certify this file"
        )
    beside = report_path(artifact)
    if Path(artifact).suffix == ".plan":
        from ..engine.tensorrt.sidecar import update_sidecar

        if not beside.exists():
            return None
        update_sidecar(artifact, parity=certificate.to_dict())
        return beside
    report = read_report(artifact)
    if report is None:
        return None
    report.setdefault("parity", {})[certificate.precision] = certificate.to_dict()
    with atomic_path(beside) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return beside
