"""``NAME.plan.json``: what a plan's own bytes do not say."""

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..._atomic import atomic_path
from ..._json import decode, parse, short
from ...artifact import file_sha256, report_path
from ...errors import ArtifactError
from ...spec import Spec
from ...spec_rules import MAX_FRAMES, range_problems, sha256_problem, text_problem
from ..network import input_names, shape_problems
from ..network_input import LOG_MEL, NetworkInput
from .library import Runtime
from .profile import Profile
from .targets import RTX_DEFAULT_TARGETS

FORMAT_VERSION = 3
# A certificate of all layers and signals takes a thousandth of it.
_MAX_BYTES = 2**24

TensorFormat = Literal["linear", "hwc8"]
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

TensorType = Literal["float32", "float16", "bfloat16", "int32"]
# TensorRT's tiling optimization levels.
Tiling = Literal["none", "fast", "moderate", "full"]

# A plan whose ranges are wide has two.
_MAX_PROFILES = 8


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
    dtype: TensorType
    format: TensorFormat


@dataclass(frozen=True, kw_only=True)
class SourceArtifact:
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
        targets: the compute capabilities of the GPUs that it runs on.
        system: the system it was built on, and that can load it.
        profiles: the input shapes that it takes, the tightest first; the last takes all.
        effort: TensorRT's builder optimization level.
        tiling: its tiling optimization level.
        linear_outputs: whether map outputs were kept NCHW.
        input: what its network takes.
        tensors: inputs and outputs.
        activation_bytes: activation memory at the profiles' maximum, where the builder said.
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
    targets: tuple[str, ...]
    system: str
    profiles: tuple[Profile, ...]
    effort: int
    tiling: Tiling
    linear_outputs: bool
    input: NetworkInput
    tensors: tuple[TensorInfo, ...]
    activation_bytes: int | None
    source: SourceArtifact
    spec: Spec
    parity: dict[str, Any] | None = None

    @property
    def profile(self) -> Profile:
        """All the input shapes that it takes."""
        return self.profiles[-1]

    @property
    def precision(self) -> str:
        """Of the build: in 8 bits, that of the rest."""
        if self.spec.quantization is None:
            return self.spec.precision
        return _PRECISIONS[self.tensors[-1].dtype]

    def rebuild_command(self, plan: str | os.PathLike[str]) -> str:
        """The command that builds ``plan`` again with the same options."""
        words = ["fusion-engine", "build", self.source.name, "-o", os.fspath(plan)]
        words += ["--runtime", self.runtime, "--precision", self.precision]
        if self.runtime == "tensorrt_rtx" and self.targets != RTX_DEFAULT_TARGETS:
            words += ["--targets", ",".join(self.targets)]
        words += ["--batch", str(self.profile.batch)]
        if self.spec.segment is None:
            words += ["--frames", str(self.profile.frames)]
        if len(self.profiles) == 1 and not self.profile.is_static:
            words.append("--no-static-profile")
        words += ["--effort", str(self.effort)]
        if self.tiling != "none":
            words += ["--tiling", self.tiling]
        if self.linear_outputs:
            words.append("--linear-outputs")
        if self.input == LOG_MEL and self.precision in ("fp16", "bf16"):
            words.append("--log-mel-input")
        if self.spec.masked:
            words.append("--ragged")
        return shlex.join(words)


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
    text = _read(path)
    if text is None:
        return None
    try:
        data = parse(text, most=_MAX_BYTES)
    except ValueError as error:
        raise _damaged(path, f"not JSON: {error}") from None
    version = data.get("format_version") if isinstance(data, dict) else None
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise _damaged(
            path, f"its format version is {short(version)}, expected 1 to {FORMAT_VERSION}"
        )
    if version == 1:
        data = _from_format_1(data)
    if version < 3:
        data = data | {"format_version": FORMAT_VERSION, "input": asdict(LOG_MEL)}
    try:
        sidecar: Sidecar = decode(Sidecar, data, "sidecar")
    except ArtifactError as error:
        raise _damaged(path, str(error)) from None
    found = list(_problems(sidecar))
    if found:
        raise _damaged(path, "; ".join(found))
    return sidecar


def _from_format_1(data: dict[str, Any]) -> dict[str, Any]:
    """What a sidecar of format 1 meant, as one of format 2: it had one profile and no targets."""
    known = {name: value for name, value in data.items() if name != "profile"}
    capability = data.get("compute_capability")
    targets = RTX_DEFAULT_TARGETS if capability is None else (capability,)
    return known | {
        "targets": list(targets),
        "profiles": [data.get("profile")],
        "tiling": "none",
    }


def _read(path: Path) -> str | None:
    """The file's text; ``None`` where there is none."""
    try:
        if not path.is_file():
            if path.exists():
                raise _damaged(path, "not a file")
            return None
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise _damaged(path, f"more than {_MAX_BYTES} bytes")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, f"not UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror or error})") from None


def _problems(sidecar: Sidecar) -> Iterator[str]:
    """What is out of range, or not as the spec says, a few words each."""
    spec = sidecar.spec
    yield from range_problems(sidecar, {"bytes": (1, 2**50), "effort": (0, 5)})
    yield from range_problems(sidecar, {"activation_bytes": (0, 2**50)})
    yield from _profile_problems(sidecar)
    capability = sidecar.compute_capability
    for name, value in (
        ("compute_capability", capability),
        *((f"targets[{index}]", target) for index, target in enumerate(sidecar.targets)),
    ):
        if value is not None and re.fullmatch(r"\d{1,3}\.\d{1,3}", value, re.ASCII) is None:
            yield f"{name} is {short(value)}, expected a version such as 9.0"
    if not sidecar.targets:
        yield "targets is [], expected the compute capabilities that the plan was built for"
    for name, text in (
        ("runtime_version", sidecar.runtime_version),
        ("gpu", sidecar.gpu or "none"),
        ("system", sidecar.system),
        ("source.name", sidecar.source.name),
    ):
        problem = text_problem(name, text)
        if problem is not None:
            yield problem
    for name, digest in (("sha256", sidecar.sha256), ("source.sha256", sidecar.source.sha256)):
        problem = sha256_problem(name, digest)
        if problem is not None:
            yield problem
    try:
        sidecar.input.values(spec.frontend.n_mels)
    except ArtifactError as error:
        yield str(error)
    names = [tensor.name for tensor in sidecar.tensors]
    expected = [*input_names(spec), *(layer.name for layer in spec.layers)]
    if sorted(names) != sorted(expected):
        yield f"it has the tensors {short(names)}, its spec says {short(expected)}"
    else:
        yield from shape_problems(spec, {t.name: t.shape for t in sidecar.tensors})


def _profile_problems(sidecar: Sidecar) -> Iterator[str]:
    spec, profiles = sidecar.spec, sidecar.profiles
    if not 1 <= len(profiles) <= _MAX_PROFILES:
        yield f"it has {len(profiles)} profiles, expected 1 to {_MAX_PROFILES}"
    for profile in profiles:
        for name in ("batch", "frames"):
            sizes = getattr(profile, name).triple
            if not 1 <= sizes[0] <= sizes[1] <= sizes[2] <= MAX_FRAMES:
                yield f"the profile's {name} is {sizes}, expected no falling sizes from 1 on"
        if not spec.min_frames <= profile.frames.min <= profile.frames.max <= spec.max_frames:
            yield (
                f"the profile takes {profile.frames} frames, the spec {spec.min_frames} to "
                f"{spec.max_frames}"
            )
        if not profiles[-1].contains(profile):
            yield f"the last profile ({profiles[-1]}) does not take all of {profile}"


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
