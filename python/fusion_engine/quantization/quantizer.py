"""From an FP32 artifact to one in 8 bits, which is refused where it loses too much."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from .._atomic import atomic_path, refuse_inputs
from .._instructions import dot_products
from .._words import listed
from ..artifact import file_sha256, read_report, read_spec, report_path, takes_samples
from ..audio import find_audio
from ..errors import ArtifactError, NumericalError
from ..parity.bounds import EightBits, bound_of
from ..spec import Quantization, Spec
from .calibration import Inputs, Method, Progress, clips, find_peaks
from .errors import Losses, embedding_error
from .graph import quantized_model
from .placement import Placement, place

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)

# Clips that errors are measured on, and seconds of each.
_CLIPS, _SECONDS = 8, 10.0


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """What ``quantize`` wrote.

    Args:
        path: the artifact.
        spec: the contract inside it.
        bytes: its size.
        layers: relative L2 error of each layer output, as the graph says it.
        embedding: largest relative L2 error of a clip's embedding, as ``Engine`` runs it here.
        bound: what it had to keep.
        products: what each convolution or product adds to the error of its input, the largest
            first.
        kept: those that stay in FP32 though they could be in 8 bits.
        seconds: how long it took.
    """

    path: Path
    spec: Spec
    bytes: int
    layers: dict[str, float]
    embedding: float
    bound: float
    products: dict[str, float]
    kept: tuple[str, ...]
    seconds: float


def no_progress(what: str, done: int, total: int) -> None:
    """Say nothing."""


def quantize(
    artifact: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: EightBits = "int8",
    calibration: Iterable[str | os.PathLike[str]] = (),
    method: Method = "percentile",
    keep: Sequence[str] = (),
    auto_keep: float | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> QuantizationReport:
    """Write an artifact whose convolutions and products with weights are in 8 bits.

    Weights have a scale for each output channel, activations one each, found on audio. The
    frontend, the first convolution, attention and normalisation stay as they are, and layer outputs
    are not rounded. ``Engine`` runs the artifact on the CPU, ``build`` makes a plan of it.

    Args:
        artifact: in FP32, as ``export`` wrote it.
        output: a new ``.onnx``.
        precision: INT8 or FP8 (E4M3). The CPU computes FP8 in FP32.
        calibration: recordings, of which the first minute counts, and folders of them; without
            any, the synthetic signals of ``parity``.
        method: see ``find_peaks``.
        keep: names of products that stay in FP32, as the report has them.
        auto_keep: keep more of them, those first that add most, until the embedding's error is
            this small.
        force: write also what loses more than its model's bound.
        progress: called with what goes on, how many of its steps are done, and how many it has.

    Raises:
        ArtifactError: no FP32 ``.onnx``, or nothing in it that 8 bits are for.
        AudioError: a recording that cannot be decoded.
        BackendError: onnxruntime is missing.
        NumericalError: the embedding's error is beyond the bound; it names what to keep.
        ValueError: a name in ``keep`` that is none.
    """
    import onnx

    started = time.perf_counter()
    path = Path(output)
    found = find_audio(calibration)
    if found.failures:
        raise found.failures[0][1]
    refuse_inputs(path, [artifact, *found.paths])
    spec = read_spec(artifact)
    if Path(artifact).suffix != ".onnx" or spec.precision != "fp32":
        raise ArtifactError(
            f"{os.fspath(artifact)}: {spec.precision}, expected the FP32 .onnx that `fusion-engine "
            "export` wrote"
        )
    if takes_samples(artifact):
        raise ArtifactError(
            f"{os.fspath(artifact)}: a waveform artifact, expected one that takes log-mel: what "
            "`fusion-engine export` writes without --waveform"
        )
    model = onnx.load(artifact)
    inputs = Inputs(spec, found.paths, progress)
    placement = place(model.graph, keep)
    if not placement.products:
        raise ArtifactError(f"{os.fspath(artifact)}: nothing in its graph can be in 8 bits")
    # Of all that might be rounded, so that what is kept later needs no other pass.
    peaks = find_peaks(model, inputs, spec, placement.values, method)
    source = Quantization(
        method=method, clips=inputs.count, sha256=inputs.sha256, peaks=peaks.layers
    )
    trial = _Trial(Path(artifact), model, inputs, progress)
    bound = bound_of(spec.model, precision) if auto_keep is None else auto_keep
    with atomic_path(path) as temporary:
        while True:
            rounded = quantized_model(
                model, placement, peaks.values, precision=precision, quantization=source
            )
            onnx.save(rounded, temporary)
            losses, embedding = trial.run(rounded, placement, temporary)
            if embedding <= bound or auto_keep is None or len(losses.products) == 1:
                break
            keep = [*keep, next(iter(losses.products))]
            placement = place(model.graph, keep)
        if not embedding <= bound and not force:
            worst = list(losses.products)[:3]
            raise NumericalError(
                f"{path}: the embedding is off by {embedding:.3f} of its length, and {bound:g} is "
                f"accepted of {spec.model} in {precision}. What adds most: {listed(worst)}; keep "
                f"some (--keep {' --keep '.join(worst)}), let --auto-keep {bound:g} choose, "
                "calibrate with audio like yours, or write it all the same with --force"
            )
        report = QuantizationReport(
            path=path,
            spec=read_spec(temporary),
            bytes=temporary.stat().st_size,
            layers=losses.layers,
            embedding=embedding,
            bound=bound,
            products=losses.products,
            kept=tuple(product.name for product in placement.kept),
            seconds=time.perf_counter() - started,
        )
        _save(report, temporary, artifact)
    if precision == "int8" and not dot_products():
        logger.warning(
            "this CPU multiplies no 8-bit numbers faster than FP32 ones (no VNNI): the artifact is "
            "smaller here, and may not be faster"
        )
    return report


class _Trial:
    """Measures what a graph loses against the FP32 artifact's."""

    def __init__(
        self, artifact: Path, model: onnx.ModelProto, inputs: Inputs, progress: Progress
    ) -> None:
        from ..engine import Engine

        self._model, self._spec, self._progress = model, inputs.spec, progress
        most = round(_SECONDS * inputs.spec.frontend.sample_rate)
        chosen = islice(clips(inputs.spec, inputs.paths), _CLIPS)
        self._clips = [samples[:most] for samples in chosen]
        self._runs = [run for samples in self._clips for run in inputs.runs(samples)]
        self._exact = Engine(artifact, device="cpu").embed(list(self._clips))
        self._number = 0

    def run(
        self, rounded: onnx.ModelProto, placement: Placement, path: Path
    ) -> tuple[Losses, float]:
        """The losses, and the embedding's error of the artifact at ``path``."""
        from ..engine import Engine

        self._number += 1
        self._progress(f"measuring, {self._number}.", 0, 1)
        losses = Losses(self._model, rounded, placement, self._runs, self._spec)
        error = embedding_error(self._exact, Engine(path, device="cpu"), self._clips)
        self._progress(f"measuring, {self._number}.", 1, 1)
        return losses, error


def _save(report: QuantizationReport, written: Path, source: str | os.PathLike[str]) -> None:
    """Write ``OUT.onnx.json``; the activations that ``build`` checks are the source's."""
    activations = (read_report(source) or {}).get("activations")
    data = {
        "sha256": file_sha256(written),
        "model": report.spec.model,
        "layers": [layer.number for layer in report.spec.layers],
        "embedding_dim": report.spec.embedding_dim,
        "weights": asdict(report.spec.weights),
        "bytes": report.bytes,
        "precision": report.spec.precision,
        "quantization": asdict(report.spec)["quantization"],
        "relative_l2": {**report.layers, "embedding": report.embedding, "bound": report.bound},
        **({} if activations is None else {"activations": activations}),
        "products": report.products,
        "kept": list(report.kept),
        "seconds": round(report.seconds, 3),
    }
    with atomic_path(report_path(report.path)) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
