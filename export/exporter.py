"""From a model's name and weights to a verified ONNX artifact."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from .._atomic import atomic_path
from ..errors import BackendError, ExportError
from ..spec import Spec, WeightsSource
from .backbones import Backbone, resolve
from .checkpoint import load_weights
from .verify import LayerCheck, import_onnxruntime, verify

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)

DEFAULT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export wrote.

    Args:
        path: the artifact.
        spec: the contract inside it.
        opset: its ONNX opset.
        bytes: its size.
        checks: every layer against the FP64 reference.
        seconds: how long the export took.
    """

    path: Path
    spec: Spec
    opset: int
    bytes: int
    checks: tuple[LayerCheck, ...]
    seconds: float

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers' numbers, in the order of the outputs."""
        return tuple(layer.number for layer in self.spec.layers)

    @property
    def max_error(self) -> Mapping[str, float]:
        """Largest difference per output as a fraction of the output's largest value."""
        return {check.name: check.error for check in self.checks}


def export(
    model: str,
    output: str | os.PathLike[str],
    *,
    layers: Sequence[int] | None = None,
    weights: str | os.PathLike[str] = "pretrained",
    seconds: float | None = None,
    frames: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Write ``model`` as an ONNX artifact that gives the outputs of ``layers``.

    The file appears only after ONNX Runtime gave the published model's values for it, to 5e-6 of
    each layer's largest value.

    Args:
        model: a name in ``backbones()``.
        output: the ``.onnx`` file to write.
        layers: the paper's numbers, in the order of Eq. 2; the paper's choice when ``None``.
        weights: ``pretrained``, ``random:SEED`` or the path of a checkpoint.
        seconds: the longest input of one run, longer clips are cut into chunks; 60 by default.
        frames: the same in frames of log-mel; give one of the two.
        progress: called with a few words at the start of each step.

    Raises:
        ExportError: an unknown model or layer, a checkpoint that does not fit, a failed check.
        WeightsError: a download that failed.
        BackendError: torch, onnxscript or onnxruntime is missing.
        FusionEngineError: ``output`` cannot be written.
    """
    started = time.perf_counter()
    backbone = resolve(model)
    numbers = _layers(backbone, layers)
    max_frames = _max_frames(backbone, seconds, frames)
    path = Path(output)
    if path.suffix != ".onnx":
        raise ExportError(f"output {path}: expected a name that ends in .onnx")
    _require_libraries()

    def step(text: str) -> None:
        logger.info("%s: %s", model, text)
        if progress is not None:
            progress(text)

    with atomic_path(path) as temporary:
        step("reading weights")
        state, source = load_weights(backbone, weights)
        try:
            state = backbone.check_state(state, numbers)
        except ExportError as error:
            raise ExportError(f"weights {source.source} for {backbone.name}: {error}") from None
        spec = _spec(backbone, numbers, max_frames, source)
        step("tracing the graph")
        from .graph import OPSET, build_graph

        _write(build_graph(backbone, backbone.fold(state), numbers, spec), temporary)
        step("checking against PyTorch in FP64")
        checks = verify(temporary, backbone, state, numbers)
        size = temporary.stat().st_size
    elapsed = time.perf_counter() - started
    return ExportReport(
        path=path, spec=spec, opset=OPSET, bytes=size, checks=checks, seconds=elapsed
    )


def _layers(backbone: Backbone, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers asked for, once they exist."""
    numbers = backbone.default_layers if layers is None else tuple(layers)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"layers must be integers, got {number!r}")
    exist = f"{backbone.name} has layers {', '.join(map(str, backbone.layers))}"
    if not numbers:
        raise ExportError(f"no layer was asked for; {exist}")
    unknown = [number for number in numbers if number not in backbone.layers]
    if unknown:
        raise ExportError(f"unknown layers {unknown}; {exist}")
    if len(set(numbers)) < len(numbers):
        raise ExportError(f"layers {list(numbers)} name one twice; {exist}")
    return numbers


def _max_frames(backbone: Backbone, seconds: float | None, frames: int | None) -> int:
    """The longest input of one run, in frames of log-mel."""
    if seconds is not None and frames is not None:
        raise ExportError(
            f"seconds={seconds} and frames={frames} both set the longest input: give one"
        )
    if frames is None:
        seconds = DEFAULT_SECONDS if seconds is None else seconds
        if not math.isfinite(seconds):
            raise ExportError(f"seconds={seconds}: expected a finite number")
        frames = backbone.frontend.frames(round(seconds * backbone.frontend.sample_rate))
    if frames < backbone.min_frames:
        shortest = backbone.frontend.samples(backbone.min_frames) / backbone.frontend.sample_rate
        raise ExportError(
            f"a longest input of {frames} frames: {backbone.name} takes at least "
            f"{backbone.min_frames} ({shortest:g} s)"
        )
    return frames


def _require_libraries() -> None:
    """Fail before the long work when a library that the export needs is missing."""
    for name in ("torch", "onnxscript"):
        try:
            import_module(name)
        except ImportError as error:
            raise BackendError(
                f"an export needs {name}, which cannot be imported ({error}). "
                'Install it: pip install "fusion-engine[export]"'
            ) from error
    import_onnxruntime()


def _spec(
    backbone: Backbone, layers: Sequence[int], max_frames: int, weights: WeightsSource
) -> Spec:
    chosen = tuple(backbone.layers[number] for number in layers)
    return Spec(
        model=backbone.name,
        layers=chosen,
        embedding_dim=sum(layer.dim for layer in chosen),
        frontend=backbone.frontend,
        frames_per_step=backbone.frames_per_step(layers),
        chunk_margin=backbone.chunk_margin(layers),
        min_frames=backbone.min_frames,
        max_frames=max_frames,
        weights=weights,
    )


def _write(model: onnx.ModelProto, path: Path) -> None:
    """Write one file, and have ONNX's own checker read it back."""
    import onnx

    onnx.save_model(model, path)
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
