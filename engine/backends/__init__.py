"""The backends, by the suffix of the artifact."""

import re
from pathlib import Path

from ...errors import ArtifactError, BackendError
from .base import Backend

__all__ = ["Backend", "open_backend"]


def open_backend(
    path: Path, *, device: str = "auto", backend: str | None = None, threads: int | None = None
) -> Backend:
    """Open an artifact on the backend that its suffix, or ``backend``, names.

    Raises:
        ArtifactError: missing, damaged, or of an unknown kind.
        BackendError: the library or the device is missing.
        ValueError: a ``device`` or ``backend`` that does not exist.
    """
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", device) is None:
        raise ValueError(f"device is {device!r}, expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if backend not in (None, "onnxruntime"):
        raise ValueError(f"backend is {backend!r}, expected 'onnxruntime' or None")
    if not path.exists():
        raise ArtifactError(f"{path}: no such file. Write one with `fusion-engine export`.")
    if path.is_dir():
        raise ArtifactError(f"{path}: a folder, expected an .onnx file")
    if path.suffix == ".plan":
        raise BackendError(
            f"{path}: this version of fusion_engine runs no TensorRT plans; use the .onnx that the "
            "plan was built from"
        )
    if path.suffix != ".onnx":
        raise ArtifactError(f"{path}: unknown kind {path.suffix!r}, expected an .onnx file")
    from .onnx_runtime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, device=device, threads=threads)
