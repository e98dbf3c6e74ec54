"""``NAME.plan.json``: what a plan's own bytes do not say."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..._atomic import atomic_path
from ...artifact import file_sha256, report_path
from ...errors import ArtifactError
from ...spec import Spec, decode
from .library import Runtime
from .profile import Profile

FORMAT_VERSION = 1

Format = Literal["linear", "hwc8"]
DType = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """An input or output of a plan.

    Args:
        name: ``log_mel``, ``layer_3``, …
        mode: which of the two it is.
        shape: its sizes in the order [B, C, T, F] or [B, C], -1 where dynamic.
        dtype: the type of its elements.
        format: ``linear`` is NCHW; ``hwc8`` is NHWC with C a multiple of 8.
    """

    name: str
    mode: Literal["input", "output"]
    shape: tuple[int, ...]
    dtype: DType
    format: Format


@dataclass(frozen=True, kw_only=True)
class Source:
    """The artifact that a plan was built from: its file name and SHA-256."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What was known when a plan was built.

    Args:
        format_version: version of this file's format.
        sha256: of the plan's bytes.
        bytes: how many there are.
        runtime: the library that built it, and that can load it.
        runtime_version: its version; a plan is bound to it.
        gpu: the GPU that it was tuned on; ``None`` where it was built without one.
        compute_capability: of that GPU, for example ``9.0``.
        system: the system it was built on, and that can load it.
        profile: the input shapes that it takes.
        effort: TensorRT's builder optimization level.
        linear_outputs: whether map outputs were kept NCHW.
        tensors: inputs and outputs.
        activation_bytes: activation memory at the profile's maximum, where the builder said.
        source: the artifact that it was built from.
        spec: the plan's spec.
        parity: the certificate of a comparison with the original model, if one was made.
    """

    format_version: int = FORMAT_VERSION
    sha256: str
    bytes: int
    runtime: Runtime
    runtime_version: str
    gpu: str | None
    compute_capability: str | None
    system: str
    profile: Profile
    effort: int
    linear_outputs: bool
    tensors: tuple[TensorInfo, ...]
    activation_bytes: int | None
    source: Source
    spec: Spec
    parity: dict[str, Any] | None = None

    def rebuild_command(self, plan: str | os.PathLike[str]) -> str:
        """The command that builds ``plan`` again with the same options."""
        return build_command(
            self.source.name,
            plan,
            runtime=self.runtime,
            precision=self.spec.precision,
            profile=self.profile,
            fixed_frames=self.spec.segment is not None,
            effort=self.effort,
            linear_outputs=self.linear_outputs,
        )


def build_command(
    onnx: str,
    plan: str | os.PathLike[str],
    *,
    runtime: Runtime,
    precision: str,
    profile: Profile,
    fixed_frames: bool,
    effort: int,
    linear_outputs: bool,
) -> str:
    """The command line that builds a plan with these options."""
    words = ["fusion-engine", "build", onnx, "-o", os.fspath(plan)]
    words += ["--runtime", runtime, "--precision", precision, "--batch", str(profile.batch)]
    if not fixed_frames:
        words += ["--frames", str(profile.frames)]
    words += ["--effort", str(effort)]
    return shlex.join(words + ["--linear-outputs"] * linear_outputs)


def this_system() -> str:
    """The system that plans of this machine are bound to, for example ``linux-x86_64``."""
    return f"{sys.platform}-{platform.machine()}"


def sidecar_path(plan: str | os.PathLike[str]) -> Path:
    """Where the sidecar of ``plan`` is."""
    return report_path(plan)


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Write the file ``path``, which the caller makes appear."""
    path.write_text(json.dumps(asdict(sidecar), indent=1) + "\n", encoding="utf-8")


def read_sidecar(plan: str | os.PathLike[str]) -> Sidecar | None:
    """The sidecar beside ``plan``; ``None`` where there is none. The plan itself is not read.

    Raises:
        ArtifactError: damaged, or of another format version.
    """
    path = sidecar_path(plan)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise _damaged(path, f"not UTF-8: {error}") from None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"not JSON: {error}") from None
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise _damaged(path, f"its format version is {version!r}, expected {FORMAT_VERSION}")
    try:
        sidecar: Sidecar = decode(Sidecar, data, "sidecar")
    except ArtifactError as error:
        raise _damaged(path, str(error)) from None
    return sidecar


def update_sidecar(plan: str | os.PathLike[str], *, parity: Mapping[str, Any]) -> Sidecar:
    """Put the certificate ``parity``, which must be JSON, into the sidecar of ``plan``.

    Returns:
        The new sidecar.

    Raises:
        ArtifactError: there is no sidecar, or it is another plan's.
        FusionEngineError: it cannot be written.
    """
    sidecar = read_sidecar(plan)
    if sidecar is None:
        raise ArtifactError(f"{sidecar_path(plan)}: no such file, so nothing can be added to it")
    if file_sha256(plan) != sidecar.sha256:
        raise ArtifactError(f"{sidecar_path(plan)}: it is not the sidecar of these bytes")
    sidecar = replace(sidecar, parity=dict(parity))
    with atomic_path(sidecar_path(plan)) as temporary:
        write_sidecar(temporary, sidecar)
    return sidecar


def _damaged(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{path}: damaged ({reason}). Build the plan again, or remove this file to use the plan "
        "without what it says."
    )
