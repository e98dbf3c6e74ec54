"""The artifact that a certificate is about, opened as an engine that this machine can run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifact import read_spec, takes_samples
from ..engine import Engine
from ..engine.cut import Cutting
from ..errors import ArtifactError
from ..spec import Spec
from .frontend_fp32 import Transform
from .signals import Signal, default_signals, longest_seconds

if TYPE_CHECKING:
    from ..engine.precision import HalfPrecision

HALF = ("fp16", "bf16")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is compared.

    Args:
        engine: runs the artifact, or its emulation.
        spec: the artifact's.
        precision: of the arithmetic.
        emulated: whether ``engine`` runs an emulation of it.
        waveform: whether it gives embeddings alone, from a frontend of its own.
    """

    engine: Engine
    spec: Spec
    precision: str
    emulated: bool
    waveform: bool

    @property
    def fp32_frontend(self) -> Transform | None:
        """How it computes its log-mel, if that is in FP32."""
        if self.waveform:
            return "matrix"
        return None if self.engine.device == "cpu" else "fft"


@contextmanager
def opened(
    artifact: Path, *, precision: HalfPrecision | None, device: str, threads: int | None
) -> Iterator[Subject]:
    """Open an artifact as it is, or, an ONNX file in half precision, as its emulation.

    Raises:
        ArtifactError: missing, damaged, or of another precision than ``precision``.
        BackendError: it cannot run here.
        ValueError: an unknown precision.
    """
    spec = read_spec(artifact)
    if precision is not None and precision not in HALF:
        raise ValueError(f"precision is {precision!r}, expected one of {list(HALF)} or None")
    plan, waveform = artifact.suffix == ".plan", takes_samples(artifact)
    if precision is not None and waveform:
        raise ArtifactError(
            f"{artifact}: a waveform artifact, whose power spectra exceed half precision. Emulate "
            f"{precision} with what `fusion-engine export` writes without --waveform"
        )
    if precision not in (None, spec.precision) and (plan or spec.precision != "fp32"):
        raise ArtifactError(
            f"{artifact} is in {spec.precision}, expected fp32 to emulate {precision}: give the "
            ".onnx that `fusion-engine export` wrote, or leave the precision out"
        )
    emulated = not plan and (precision is not None or spec.precision in HALF)
    if emulated:
        with tempfile.TemporaryDirectory(prefix="fusion_engine-") as folder:
            path = Path(folder, "emulation.onnx")
            _write_emulation(artifact, precision if spec.precision == "fp32" else None, path)
            # The emulation is for the CPU: it rounds where a GPU would.
            engine = Engine(path, device="cpu", threads=threads)
    else:
        engine = Engine(artifact, device=device, threads=threads)
    with engine:
        used = precision or spec.precision
        yield Subject(
            engine=engine, spec=spec, precision=used, emulated=emulated, waveform=waveform
        )


def shortest_input(artifact: Path) -> int:
    """The shortest input: of a plan that of its profile, where its sidecar says; else the spec's.

    Raises:
        ArtifactError: the artifact is missing or damaged.
    """
    if artifact.suffix == ".plan":
        from ..engine.tensorrt.sidecar import read_sidecar

        sidecar = read_sidecar(artifact)
        if sidecar is not None:
            return sidecar.profile.frames.min
    return read_spec(artifact).min_frames


def signals_of(artifact: Path) -> tuple[Signal, ...]:
    """The synthetic signals that an artifact is compared on.

    Raises:
        ArtifactError: the artifact is missing or damaged.
    """
    most = longest_input(artifact)
    signals = default_signals(read_spec(artifact), least_frames=shortest_input(artifact))
    return tuple(signal for signal in signals if signal.seconds <= most)


def longest_input(artifact: Path) -> float:
    """The longest clip in seconds; infinite where longer ones are cut.

    Raises:
        ArtifactError: the artifact is missing or damaged.
    """
    spec = read_spec(artifact)
    if takes_samples(artifact):  # which is run once for a clip
        return Cutting(spec).most_samples / spec.frontend.sample_rate
    return longest_seconds(spec)


def _write_emulation(artifact: Path, precision: HalfPrecision | None, path: Path) -> None:
    """The FP32 graph that rounds as the artifact does in ``precision``; ``None``: its own."""
    import onnx

    from ..engine.precision import emulated_model, typed_model

    model = onnx.load(os.fspath(artifact))
    typed = model if precision is None else typed_model(model, precision)
    onnx.save_model(emulated_model(typed), os.fspath(path))
