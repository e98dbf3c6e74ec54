"""Reading an artifact's spec without running it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ._onnx_metadata import NotOnnx, input_names, metadata
from .errors import ArtifactError
from .spec import MAX_JSON, METADATA_KEY, Spec

# The input of a waveform artifact, and its output.
SAMPLES, EMBEDDING = "samples", "embedding"


def read_spec(path: str | os.PathLike[str]) -> Spec:
    """The spec inside an `.onnx` or `.plan` artifact; needs no runtime and no GPU.

    Raises:
        ArtifactError: missing, damaged, no spec, or a spec this version cannot read.
    """
    path = Path(path)
    if path.suffix == ".plan":
        from .engine.tensorrt.plan_file import read_plan

        return read_plan(path).spec
    try:
        if path.is_dir():
            raise ArtifactError(f"{path}: a folder, expected an .onnx file")
        if not path.exists():
            raise ArtifactError(f"{path}: no such file. Write one with `fusion-engine export`.")
        if not path.is_file():
            raise ArtifactError(f"{path}: no plain file, expected an .onnx file")
        if path.suffix != ".onnx":
            raise ArtifactError(f"{path}: unknown kind {path.suffix!r}, expected .onnx or .plan")
        with path.open("rb") as file:
            values = metadata(file, METADATA_KEY, most=MAX_JSON)
    except NotOnnx as error:
        raise ArtifactError(
            f"{path}: truncated or no ONNX file ({error}). Export it again with "
            "`fusion-engine export`."
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not values:
        raise ArtifactError(
            f"{path}: no {METADATA_KEY!r} entry in its metadata, so it was not written by "
            "fusion_engine. Export the model with `fusion-engine export`."
        )
    try:
        (text,) = {value.decode("utf-8") for value in values}
    except ValueError as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "two of them"
        raise ArtifactError(
            f"{path}: the spec is damaged ({reason}). Export the model again with "
            "`fusion-engine export`."
        ) from None
    return Spec.from_json(text, where=str(path))


def takes_samples(path: str | os.PathLike[str]) -> bool:
    """Whether an artifact is a waveform graph: samples in, embedding out.

    Its input's name says so. What cannot be read is none; whoever opens it says why.
    """
    try:
        with Path(path).open("rb") as file:
            return Path(path).suffix == ".onnx" and input_names(file) == [SAMPLES]
    except (NotOnnx, OSError):
        return False


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_path(artifact: str | os.PathLike[str]) -> Path:
    """Where the weights of an artifact above 2 GB are kept, ONNX's external data."""
    return Path(f"{os.fspath(artifact)}.data")


def report_path(artifact: str | os.PathLike[str]) -> Path:
    """Where the report of an artifact's export is kept."""
    return Path(f"{os.fspath(artifact)}.json")


def read_report(artifact: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The report of the artifact's export; ``None`` where there is none, or of another file."""
    try:
        report = json.loads(report_path(artifact).read_text(encoding="utf-8"))
        if not isinstance(report, dict) or report.get("sha256") != file_sha256(artifact):
            return None
        external = report.get("external_sha256")
        if external is not None and external != file_sha256(data_path(os.path.realpath(artifact))):
            return None
    except (OSError, ValueError, RecursionError):
        return None
    return report
