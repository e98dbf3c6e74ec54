"""An artifact and its PyTorch reference over the same clips."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._install import install
from .._version import __version__
from ..artifact import file_sha256, read_spec
from ..engine.cut import bucket, frames_of
from ..errors import ArtifactError, BackendError, ExportError, NumericalError
from ..spec import Spec, WeightsSource
from .certificate import Certificate, CertifiedClip, Comparison, Input, compared
from .reference import EMBEDDING, FRAME_FEATURES, Outputs, Reference, ReferencePrecision
from .scales import scale_problems
from .signals import LONGEST_SECONDS, Samples, Signal
from .statistics import ErrorMeter
from .subject import Subject, longest_input, opened, signals_of

if TYPE_CHECKING:
    from ..export import Backbone

logger = logging.getLogger(__name__)

_LIBRARIES = ("numpy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu")
# PyTorch's arithmetic for an artifact's. TF32 has the mantissa of FP16.
_BASELINES: Mapping[str, ReferencePrecision] = {
    "fp32": "fp32",
    "tf32": "fp16",
    "fp16": "fp16",
    "bf16": "bf16",
    "int8": "fp16",
    "fp8": "fp16",
}


def certify(
    artifact: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    key: str | None = None,
    prefix: str | None = None,
    audio: Sequence[str | os.PathLike[str]] = (),
    signals: Sequence[Signal] | None = None,
    precision: Literal["fp16", "bf16"] | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Certificate:
    """Compare an artifact with the published model in PyTorch, number by number.

    The truth is the model as published in FP64, nothing folded, after the frontend that it was
    trained with, and Eq. 1 to 3 (Niizumi et al. 2022) in FP64.

    Args:
        artifact: an ``.onnx``, a ``.plan`` where this machine runs it, or a graph that
            ``fusion-engine build --typed-onnx`` wrote, which is emulated on the CPU.
        weights: what it was exported with: ``pretrained``, ``random:SEED`` or the path of a
            checkpoint; ``None``: what its spec names, unless that is a file.
        key: the checkpoint's entry, where it was exported with one.
        prefix: of the checkpoint's names, where it was exported with one.
        audio: files to compare beside the synthetic signals; of a long one its first 75 s, or
            the longest clip that an artifact takes which cannot cut it.
        signals: the synthetic signals; ``None``: ``default_signals``, as far as the artifact takes
            them.
        precision: emulate this precision on the CPU, from an FP32 ``.onnx``.
        device: as for ``Engine``; an emulation always runs on the CPU.
        threads: as for ``Engine``; PyTorch keeps its own number.
        progress: called with a few words at the start of each step: one for the weights, one for
            the artifact, and one for each clip.

    Returns:
        the certificate, which is true if the artifact passed.

    Raises:
        ArtifactError: the artifact is missing, damaged, of another precision, or not what its
            spec says.
        AudioError: a file that cannot be read.
        BackendError: torch is missing, or the artifact cannot run here.
        ExportError: no weights, or others than the artifact was made from.
        NumericalError: the reference itself is not finite, or the weights are beyond the range of
            ``precision``.
        ValueError: neither a signal nor a file, or a ``precision`` that does not exist.
    """
    started = time.perf_counter()
    _require_torch()
    path = Path(artifact)
    step = progress or (lambda text: None)
    spec = read_spec(path)
    sha256 = file_sha256(path)
    if signals is None:
        signals = signals_of(path)
    chosen = tuple(signals)
    if not chosen and not audio:
        raise ValueError("there is nothing to compare: give signals or audio")
    step("reading the weights")
    reference, source = _reference(path, spec, weights, key, prefix)
    step("opening the artifact")
    with opened(path, precision=precision, device=device, threads=threads) as subject:
        if file_sha256(path) != sha256:
            raise ArtifactError(f"{path}: changed while it was being opened; certify it again")
        meters = _Meters(subject, reference)
        if path.suffix == ".onnx" and spec.quantization is not None:
            meters.problems += _scale_problems(path, reference)
        clips = []
        most = min(LONGEST_SECONDS, longest_input(path))
        for name, samples in _clips(chosen, audio, reference.backbone.frontend.sample_rate, most):
            step(f"comparing {name}")
            meters.add(name, samples)
            clips.append(_certified(name, samples, reference.backbone.frontend.sample_rate))
    return Certificate(
        artifact=path.name,
        artifact_sha256=sha256,
        model=spec.model,
        layers=tuple(layer.number for layer in spec.layers),
        precision=subject.precision,
        emulated=subject.emulated,
        backend=subject.engine.backend,
        device=subject.engine.device,
        weights=source,
        clips=tuple(clips),
        comparisons=tuple(meters.comparisons()),
        problems=tuple(meters.problems),
        libraries=dict(_libraries()),
        machine=_machine(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - started, 3),
    )


class _Meters:
    """The errors of the artifact and of PyTorch, for both inputs and every output."""

    def __init__(self, subject: Subject, reference: Reference) -> None:
        self._subject = subject
        self._reference = reference
        self._baseline = _BASELINES[subject.precision]
        self._fp32_frontend = subject.fp32_frontend
        # Equal settings give equal bits: one comparison stands for both inputs.
        self._published = subject.spec.frontend == reference.backbone.frontend
        self._meters: dict[tuple[Input, str], dict[str, ErrorMeter]] = defaultdict(
            lambda: defaultdict(ErrorMeter)
        )
        self.problems: list[str] = []

    def add(self, clip: str, samples: Samples) -> None:
        """Run one clip through everything."""
        got = self._run(clip, samples)
        published = self._reference.backbone.frontend
        own = self._subject.spec.frontend
        exact = self._reference.log_mel(samples, published)
        rounded = exact
        if self._fp32_frontend is not None:
            rounded = self._reference.log_mel(samples, published, fp32=self._fp32_frontend)
        truth = self._pytorch(clip, exact, rounded)
        self._compare("end_to_end", clip, got, truth)
        if self._subject.spec.masked:
            embeddings = {precision: {EMBEDDING: x[EMBEDDING]} for precision, x in truth.items()}
            self._compare("end_to_end", clip, self._run_beside_longer(clip, samples), embeddings)
        fits = own.n_mels == published.n_mels and own.sample_rate == published.sample_rate
        if fits and not self._published and self._fp32_frontend is None:
            log_mel = self._reference.log_mel(samples, own)
            self._compare("same_log_mel", clip, got, self._pytorch(clip, log_mel, log_mel))

    def comparisons(self) -> Iterator[Comparison]:
        """All of them, the same log-mel first."""
        inputs: tuple[Input, ...] = ("same_log_mel", "end_to_end")
        for wanted in inputs[self._fp32_frontend is not None :]:
            for (input, output), meters in self._meters.items():
                if input == wanted or self._published:
                    yield compared(
                        wanted,
                        output,
                        self._subject.precision,
                        self._subject.spec.model,
                        artifact=meters["artifact"].result(),
                        pytorch=meters[self._baseline].result(),
                        pytorch_fp32=meters["fp32"].result(),
                        fp32_frontend=self._fp32_frontend is not None,
                    )

    def _run(self, clip: str, samples: Samples) -> dict[str, NDArray[np.float32]]:
        """What the artifact gives for a clip; what it does not give becomes a problem."""
        engine = self._subject.engine
        rate = self._reference.backbone.frontend.sample_rate
        outputs: dict[str, NDArray[np.float32]] = {}
        runs: list[tuple[str, Callable[[], Any]]] = [
            ("layer outputs", lambda: engine.layer_outputs(samples, sample_rate=rate)),
            (FRAME_FEATURES, lambda: engine.embed_frames(samples, sample_rate=rate)),
            (EMBEDDING, lambda: engine.embed(samples, sample_rate=rate)),
        ]
        if self._subject.waveform:
            del runs[:2]
        elif engine.frame_rate is None:
            del runs[1]
        for name, run in runs:
            try:
                found = run()
            except (NumericalError, BackendError) as error:
                self.problems.append(f"{clip}: no {name.replace('_', ' ')}: {error}")
                continue
            outputs |= found if isinstance(found, dict) else {name: found}
        return outputs

    def _run_beside_longer(self, clip: str, samples: Samples) -> dict[str, NDArray[np.float32]]:
        """The clip's embedding in a batch with one that is as long as their bucket."""
        engine, spec = self._subject.engine, self._subject.spec
        rate = self._reference.backbone.frontend.sample_rate
        frames = min(bucket(frames_of(spec, len(samples))), spec.max_frames)
        longer = np.resize(samples, max(len(samples), spec.frontend.samples(frames)))
        try:
            return {EMBEDDING: engine.embed([samples, longer], sample_rate=rate)[0]}
        except (NumericalError, BackendError) as error:
            self.problems.append(f"{clip}: no embedding in a batch: {error}")
            return {}

    def _pytorch(
        self, clip: str, exact: NDArray[np.float32], rounded: NDArray[np.float32]
    ) -> Mapping[ReferencePrecision, Outputs]:
        """The reference's outputs by precision, FP64 from ``exact`` and checked to be finite."""
        truth: dict[ReferencePrecision, Outputs] = {"fp64": self._reference.outputs(exact, "fp64")}
        lower: set[ReferencePrecision] = {"fp32", self._baseline}
        for precision in sorted(lower):
            truth[precision] = self._reference.outputs(rounded, precision)
        bad = [name for name, values in truth["fp64"].items() if not np.isfinite(values).all()]
        if bad:
            raise NumericalError(
                f"{clip}: {', '.join(bad)} of PyTorch's own FP64 reference is not finite, so there "
                "is nothing to compare with. Check the weights."
            )
        return truth

    def _compare(
        self,
        input: Input,
        clip: str,
        got: Mapping[str, NDArray[np.float32]],
        truth: Mapping[ReferencePrecision, Outputs],
    ) -> None:
        for output, expected in truth["fp64"].items():
            if self._subject.waveform and output != EMBEDDING:
                continue
            meters = self._meters[input, output]
            for precision, outputs in truth.items():
                if precision != "fp64":
                    meters[precision].add(clip, outputs[output], expected)
            found = got.get(output)
            if found is not None and found.shape != expected.shape:
                self.problems.append(
                    f"{clip}: {output} is {list(found.shape)}, the model gives "
                    f"{list(expected.shape)}"
                )
            elif found is not None:
                meters["artifact"].add(clip, found, expected)


def _reference(
    path: Path,
    spec: Spec,
    weights: str | os.PathLike[str] | None,
    key: str | None,
    prefix: str | None,
) -> tuple[Reference, WeightsSource]:
    """The published model with the artifact's weights and settings."""
    from ..export import resolve
    from ..export.checkpoint import load_weights

    known = spec.weights
    if known.source == "module":
        raise ExportError(
            f"{path} was exported from a module in memory, which no weights bring back; "
            "its export was checked against that module in FP64"
        )
    if weights is None:
        if known.source != "pretrained" and not known.source.startswith("random:"):
            raise ExportError(
                f"{path} was exported from the checkpoint {known.source}: say where that is, with "
                "--weights PATH"
            )
        weights = known.source
    backbone = resolve(spec.model)
    numbers = tuple(layer.number for layer in spec.layers)
    state, source = load_weights(backbone, weights, key=key, prefix=prefix)
    if source.sha256 != known.sha256:
        raise ExportError(
            f"weights {source.source} are not those of {path}: their SHA-256 is {source.sha256}, "
            f"it was exported from {known.source} with {known.sha256}. Give that file, with the "
            "--key and --prefix of its export if it had any, or export again from this one"
        )
    backbone = _configured(backbone, spec).for_checkpoint(state)
    return Reference(backbone, backbone.check_state(state, numbers), numbers, spec.head), source


def _scale_problems(path: Path, reference: Reference) -> list[str]:
    import onnx

    return list(scale_problems(onnx.load(path), reference.folded()))


def _configured(backbone: Backbone, spec: Spec) -> Backbone:
    """The model with the choices that the artifact was exported with."""
    return backbone.configured(frames=spec.max_frames, token=spec.token)


def _clips(
    signals: Iterable[Signal],
    audio: Iterable[str | os.PathLike[str]],
    rate: int,
    seconds: float,
) -> Iterator[tuple[str, Samples]]:
    """Names and samples; of the audio the first ``seconds``."""
    from ..audio import load

    for signal in signals:
        yield signal.name, signal.samples(rate)
    most = round(seconds * rate)
    for file in audio:
        samples = load(file, rate).samples
        if len(samples) > most:
            logger.warning("%s: its first %g s are compared", file, seconds)
        yield os.fspath(file), samples[:most]


def _certified(name: str, samples: Samples, rate: int) -> CertifiedClip:
    digest = hashlib.sha256(samples.astype("<f4", copy=False).tobytes()).hexdigest()
    return CertifiedClip(name=name, seconds=round(len(samples) / rate, 4), sha256=digest)


def _require_torch() -> None:
    try:
        import_module("torch")
    except ImportError as error:
        raise BackendError(
            f"a parity certificate needs torch, which cannot be imported ({error}). "
            f"Install it: {install('export')}"
        ) from error


def _libraries() -> Iterator[tuple[str, str]]:
    yield "fusion_engine", __version__
    for name in _LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _machine() -> dict[str, str]:
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
