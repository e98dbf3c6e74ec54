"""Reading a plan without a GPU and without the library that built it.

A plan is a plain serialized engine, so that other tools load it too. Its spec is the network's
name, which stands in the bytes as a little-endian u64 length and UTF-8.
"""

import json
import logging
import mmap
import os
import shlex
import struct
from dataclasses import dataclass
from pathlib import Path

from ...artifact import file_sha256
from ...errors import ArtifactError
from ...spec import Spec
from ..network_input import NetworkInput
from .library import Runtime
from .network_name import MAX_BYTES, PREFIX, decode_name
from .sidecar import Sidecar, read_sidecar, sidecar_path

logger = logging.getLogger(__name__)

_BUILD_AGAIN = "Build it again with `fusion-engine build`."


@dataclass(frozen=True)
class PlanInfo:
    """A plan, read without loading it.

    Args:
        path: the plan.
        bytes: its size.
        spec: its spec.
        input: what its network takes.
        sidecar: what ``NAME.plan.json`` says, whose SHA-256 is that of the plan; ``None`` where
            there is no such file.
    """

    path: Path
    bytes: int
    spec: Spec
    input: NetworkInput
    sidecar: Sidecar | None

    @property
    def runtime(self) -> Runtime | None:
        """The library that can load it; ``None`` without a sidecar."""
        return None if self.sidecar is None else self.sidecar.runtime

    @property
    def rebuild_command(self) -> str:
        """The command that builds it again, with the same options where they are known."""
        if self.sidecar is not None:
            return self.sidecar.rebuild_command(self.path)
        words = ["fusion-engine", "build", "MODEL.onnx", "-o", os.fspath(self.path)]
        if self.spec.quantization is None:
            words += ["--precision", self.spec.precision]
        return shlex.join(words)


def read_plan(path: str | os.PathLike[str]) -> PlanInfo:
    """A plan's spec and sidecar, once its bytes are known to be the ones that were built.

    Without a sidecar nothing but the spec can be checked.

    Raises:
        ArtifactError: missing, truncated, damaged, no plan or no spec in it; a sidecar that is
            damaged or another plan's.
    """
    path = Path(path)
    if path.is_dir():
        raise ArtifactError(f"{path}: a folder, expected a .plan file")
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file. Write one with `fusion-engine build`.")
    size = path.stat().st_size
    if not size:
        raise ArtifactError(f"{path}: empty, expected a TensorRT plan. {_BUILD_AGAIN}")
    sidecar = read_sidecar(path)
    if sidecar is not None:
        _check_bytes(path, size, sidecar)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        name = find_name(data)
    if name is None:
        if sidecar is None:
            raise ArtifactError(
                f"{path}: no spec of fusion_engine in it: not a TensorRT plan, truncated, or built "
                f"by another program. {_BUILD_AGAIN}"
            )
        logger.info("%s: its spec was taken from the sidecar", path)
        return PlanInfo(path, size, sidecar.spec, sidecar.input, sidecar)
    spec, network_input = decode_name(name, where=str(path))
    if sidecar is not None and (sidecar.spec, sidecar.input) != (spec, network_input):
        raise ArtifactError(
            f"{path}: the spec in it and the one in {sidecar_path(path).name} differ. Build it "
            f"again: {sidecar.rebuild_command(path)}"
        )
    return PlanInfo(path, size, spec, network_input, sidecar)


def find_name(data: "mmap.mmap | bytes") -> str | None:
    """The network's name in a plan's bytes, where it is one of ours."""
    start = data.find(PREFIX.encode())
    if start < 0:
        return None
    if start >= 8:
        (length,) = struct.unpack("<Q", data[start - 8 : start])
        if len(PREFIX) < length <= MAX_BYTES and data[start + length - 2 : start + length] == b"}}":
            return data[start : start + length].decode("utf-8", errors="replace")
    # Stored in another way: the JSON itself says where it ends.
    text = data[start : start + MAX_BYTES].decode("utf-8", errors="replace")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return text
    return text[:end]


def _check_bytes(path: Path, size: int, sidecar: Sidecar) -> None:
    rebuild = f"Build it again: {sidecar.rebuild_command(path)}"
    if size != sidecar.bytes:
        what = "truncated" if size < sidecar.bytes else "damaged"
        raise ArtifactError(
            f"{path}: {what}: {size} bytes, expected {sidecar.bytes}, or "
            f"{sidecar_path(path).name} belongs to another one. {rebuild}"
        )
    digest = file_sha256(path)
    if digest != sidecar.sha256:
        raise ArtifactError(
            f"{path}: its SHA-256 is {digest[:12]}…, its sidecar says {sidecar.sha256[:12]}…: the "
            f"plan is damaged, or {sidecar_path(path).name} belongs to another one. {rebuild}"
        )
