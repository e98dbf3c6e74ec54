"""What a certificate says, and its JSON."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .._atomic import atomic_path
from ..spec import WeightsSource
from .bounds import EIGHT_BITS, bound_of
from .statistics import ErrorStatistics

CERTIFICATE_VERSION = 1

Input = Literal["same_log_mel", "end_to_end"]

# Of the largest value. ONNX Runtime and PyTorch in FP32 were measured at 5e-7 to 1e-6 from FP64.
FP32_BOUNDS: Mapping[Input, float] = {"same_log_mel": 5e-6, "end_to_end": 2e-5}
# Lower precision: this many times PyTorch's own error, and one rounding of the largest value.
PYTORCH_FACTOR = 2.0
ROUNDING = {"tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}
# Where PyTorch itself is lost, twice its error would let anything pass, zeros included.
LARGEST_BOUND = 0.25


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One output of the artifact against PyTorch in FP64.

    Args:
        input: ``same_log_mel``: the reference is fed with the log-mel of the artifact's own
            frontend settings, only where the frontend runs on the CPU; ``end_to_end``: with that
            of the published model's, in FP64.
        output: ``layer_N``, ``frame_features`` or ``embedding``.
        artifact: the artifact's error.
        pytorch: the error of PyTorch in the artifact's precision, from a log-mel in FP32 where
            the artifact's frontend computes in FP32: on a GPU, or in a waveform artifact.
        pytorch_fp32: the error of PyTorch in FP32.
        required_error: the largest ``artifact.error`` that passes.
        required_l2_relative: the largest ``artifact.l2_relative`` that passes; ``None`` where only
            the error decides, which is in FP32.
    """

    input: Input
    output: str
    artifact: ErrorStatistics
    pytorch: ErrorStatistics
    pytorch_fp32: ErrorStatistics
    required_error: float
    required_l2_relative: float | None

    @property
    def passed(self) -> bool:
        """Every element finite, and the errors within what is required."""
        if self.artifact.non_finite or self.pytorch.non_finite:
            return False
        within = self.artifact.error <= self.required_error  # false for NaN
        if self.required_l2_relative is None:
            return within
        return within and self.artifact.l2_relative <= self.required_l2_relative

    def __bool__(self) -> bool:
        return self.passed


def compared(
    input: Input,
    output: str,
    precision: str,
    model: str,
    *,
    artifact: ErrorStatistics,
    pytorch: ErrorStatistics,
    pytorch_fp32: ErrorStatistics,
    fp32_frontend: bool,
) -> Comparison:
    """The comparison with the bounds that ``precision`` has to keep, of 8 bits a ``model``'s own.

    Where the log-mel is computed in FP32, and PyTorch's as well, its error is part of both.
    """
    error, l2 = FP32_BOUNDS[input], None
    if fp32_frontend:
        error += PYTORCH_FACTOR * pytorch.error
    if precision in ROUNDING:
        rounding = ROUNDING[precision]
        error = PYTORCH_FACTOR * pytorch.error + rounding
        l2 = PYTORCH_FACTOR * pytorch.l2_relative + rounding
    for eight_bits in EIGHT_BITS:
        if precision == eight_bits:
            bound = bound_of(model, eight_bits)
            error, l2 = LARGEST_BOUND, bound if output == "embedding" else 2 * bound
    return Comparison(
        input=input,
        output=output,
        artifact=artifact,
        pytorch=pytorch,
        pytorch_fp32=pytorch_fp32,
        required_error=min(error, LARGEST_BOUND),
        required_l2_relative=None if l2 is None else min(l2, LARGEST_BOUND),
    )


@dataclass(frozen=True, kw_only=True)
class CertifiedClip:
    """A clip that was compared.

    Args:
        name: of the signal, or the path of the file.
        seconds: of it that were compared.
        sha256: of the samples (float32, little endian, at the model's rate).
    """

    name: str
    seconds: float
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """An artifact against the model that it was made from, number by number; true if it passed.

    Args:
        artifact: the file's name.
        artifact_sha256: of the file.
        model: for example ``cnn14_16k``.
        layers: in the order of Eq. 2.
        precision: of the arithmetic that was compared.
        emulated: whether half precision was emulated on the CPU in place of running the artifact.
        backend: library and version of what ran.
        device: what ran it.
        weights: where the reference's weights came from.
        clips: what was compared.
        comparisons: every output, for each input.
        problems: what kept an output of a clip from being compared, one sentence each.
        libraries: their versions.
        machine: what this was computed on.
        created: UTC, ISO 8601.
        seconds: how long it took.
        format_version: of the JSON.
    """

    artifact: str
    artifact_sha256: str
    model: str
    layers: tuple[int, ...]
    precision: str
    emulated: bool
    backend: str
    device: str
    weights: WeightsSource
    clips: tuple[CertifiedClip, ...]
    comparisons: tuple[Comparison, ...]
    problems: tuple[str, ...]
    libraries: Mapping[str, str]
    machine: Mapping[str, str]
    created: str
    seconds: float
    format_version: int = CERTIFICATE_VERSION

    @property
    def passed(self) -> bool:
        """Every comparison passed, and nothing kept one from being made."""
        return bool(self.comparisons) and not self.problems and all(self.comparisons)

    def __bool__(self) -> bool:
        return self.passed

    @property
    def failures(self) -> tuple[Comparison, ...]:
        """The comparisons that did not pass."""
        return tuple(comparison for comparison in self.comparisons if not comparison)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a number that is not finite is ``None``."""
        data: dict[str, Any] = _plain(asdict(self))
        data["passed"] = self.passed
        for entry, comparison in zip(data["comparisons"], self.comparisons, strict=True):
            entry["passed"] = comparison.passed
        return data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate as JSON.

        Raises:
            FusionEngineError: the file cannot be written.
        """
        with atomic_path(path) as temporary:
            text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
