"""From a model's name and weights to a verified ONNX artifact."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from .._atomic import atomic_path
from .._install import install
from ..artifact import data_path
from ..engine.masking import masked
from ..engine.onnx import import_onnxruntime
from ..errors import BackendError, ExportError
from ..frontend import FrontendSpec
from ..spec import Spec, Token, WeightsSource
from .activations import largest_activations, watched_values
from .backbones import Backbone, resolve
from .checkpoint import load_weights
from .export_report import ExportReport
from .files import refer_to, written
from .verify import verification_inputs, verify

if TYPE_CHECKING:
    import torch

    from .verify import LayerCheck, LayerFunction

logger = logging.getLogger(__name__)


def export(
    model: str,
    output: str | os.PathLike[str],
    *,
    layers: Sequence[int] | None = None,
    weights: str | os.PathLike[str] = "pretrained",
    key: str | None = None,
    prefix: str | None = None,
    seconds: float | None = None,
    frames: int | None = None,
    token: Token | None = None,
    ragged: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Write ``model`` as an ONNX artifact that gives the outputs of ``layers``.

    The file appears only after ONNX Runtime gave the published model's values for it, to 5e-6 of
    each layer's largest value. The report is kept beside it, as ``ARTIFACT.onnx.json``.

    Args:
        model: a name in ``backbones()``.
        output: the ``.onnx`` file to write.
        layers: the paper's numbers, in the order of Eq. 2; the paper's choice when ``None``.
        weights: ``pretrained``, ``random:SEED`` or the path of a checkpoint; for AST also a folder
            that transformers' ``save_pretrained`` wrote.
        key: the entry of a checkpoint that holds the state dict, such as ``model_ema``, with dots
            between entries in entries; ``None``: the only one, or the usual one.
        prefix: what the names of the model's tensors begin with in a checkpoint; ``None``: what
            wrappers such as DataParallel put there.
        seconds: the longest input of one run, 60 by default; AST's one input length, to which
            shorter clips are padded. Longer clips are cut. VGGish's segments have their length.
        frames: the same in frames of log-mel, AST's default being what its checkpoint was trained
            with, 1024 for the released one; give one of the two.
        token: AST's pooling of each layer: ``cls_dist_mean``, the mean of the CLS and the
            distillation token, which is its default, or ``cls``, the CLS token alone.
        ragged: let clips of different lengths share a batch, each with its own answer: a second
            input, ``valid_frames``, masks the rest. For CNN14's blocks.
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
    backbone = backbone.configured(
        frames=input_frames(backbone.frontend, seconds, frames), token=token
    )
    path = onnx_path(output)
    require_libraries()
    from .graph import backbone_module

    def step(text: str) -> None:
        logger.info("%s: %s", model, text)
        if progress is not None:
            progress(text)

    with atomic_path(path) as temporary:
        step("reading weights")
        state, source = load_weights(backbone, weights, key=key, prefix=prefix)
        try:
            backbone = backbone.for_checkpoint(state)
            state = backbone.check_state(state, numbers)
        except ExportError as error:
            raise ExportError(f"weights {source.source} for {backbone.name}: {error}") from None
        spec = _spec(backbone, numbers, source)
        if ragged:
            spec = masked(spec)
        graph = backbone_module(backbone, backbone.fold(state), numbers)
        exact = {name: tensor.double() for name, tensor in state.items()}
        return write_artifact(
            path,
            temporary,
            spec,
            graph,
            lambda x: backbone.reference(exact, x, numbers),
            step=step,
            started=started,
        )


def write_artifact(
    path: Path,
    temporary: Path,
    spec: Spec,
    graph: torch.nn.Module,
    reference: LayerFunction,
    *,
    peer: LayerFunction | None = None,
    step: Callable[[str], None],
    started: float,
) -> ExportReport:
    """Trace ``graph`` into a file, check it, measure its activations, and report.

    A graph above 2 GB, which is the most that one ONNX file holds, has its weights in a second
    file, ``PATH.data``, which is in its place when this returns.

    Args:
        path: the artifact, where the caller will put it.
        temporary: where to write it; the caller removes it on an error.
        spec: goes into the file.
        graph: from FP32 log-mel [B, 1, T, n_mels] to the layers' outputs.
        reference: the same in FP64, as published.
        peer: the same in FP32, see ``verify``.
        step: called with a few words at the start of each step.
        started: when the export began, of ``time.perf_counter``.

    Raises:
        ExportError: the graph is not valid ONNX or does not give the reference's values.
    """
    from .graph import OPSET, trace_graph

    step("tracing the graph")
    model = trace_graph(graph, spec)
    watched = watched_values(model.graph)
    with written(model, temporary) as data:
        del model  # as large as the weights
        step("checking against PyTorch in FP64")
        checks = verify(temporary, spec, reference, peer)
        step("measuring the activations")
        activations = largest_activations(temporary, spec, watched, verification_inputs(spec))
        return reported(
            path,
            temporary,
            data,
            spec=spec,
            opset=OPSET,
            checks=checks,
            activations=activations,
            started=started,
        )


def reported(
    path: Path,
    temporary: Path,
    data: Path | None,
    *,
    spec: Spec,
    opset: int,
    checks: tuple[LayerCheck, ...],
    activations: Mapping[str, float],
    started: float,
) -> ExportReport:
    """Report a file that was written and checked, and put its weights in their place.

    Args:
        path: the artifact, where the caller will put it.
        temporary: where it is now.
        data: the file of its weights, where it has one; see ``files.written``.
        spec, opset, checks, activations: see ``ExportReport``.
        started: when the export began, of ``time.perf_counter``.
    """
    target = data_path(os.path.realpath(path))
    if data is not None:
        refer_to(temporary, target.name)
    report = ExportReport(
        path=path,
        spec=spec,
        opset=opset,
        bytes=temporary.stat().st_size,
        external_bytes=0 if data is None else data.stat().st_size,
        checks=checks,
        activations=activations,
        seconds=time.perf_counter() - started,
    )
    report.save(temporary, data)
    if data is not None:
        if target.exists():
            path.unlink(missing_ok=True)  # never an old graph with new weights
        data.replace(target)
    return report


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


def input_frames(frontend: FrontendSpec, seconds: float | None, frames: int | None) -> int | None:
    """The length asked for in frames of log-mel, if one was."""
    if seconds is None:
        return frames
    if frames is not None:
        raise ExportError(f"seconds={seconds} and frames={frames} both set the input: give one")
    if not math.isfinite(seconds):
        raise ExportError(f"seconds={seconds}: expected a finite number")
    return frontend.frames(round(seconds * frontend.sample_rate))


def onnx_path(output: str | os.PathLike[str]) -> Path:
    """``output`` as a path, once its suffix is right."""
    path = Path(output)
    if path.suffix != ".onnx":
        raise ExportError(f"output {path}: expected a name that ends in .onnx")
    return path


def require_libraries() -> None:
    """Fail before the long work when a library that the export needs is missing."""
    for name in ("torch", "onnxscript"):
        try:
            import_module(name)
        except ImportError as error:
            raise BackendError(
                f"an export needs {name}, which cannot be imported ({error}). "
                f"Install it: {install('export')}"
            ) from error
    import_onnxruntime()


def _spec(backbone: Backbone, layers: Sequence[int], weights: WeightsSource) -> Spec:
    chosen = tuple(backbone.layers[number] for number in layers)
    return Spec(
        model=backbone.name,
        layers=chosen,
        embedding_dim=sum(layer.dim for layer in chosen),
        frontend=backbone.frontend,
        frames_per_step=backbone.frames_per_step(layers),
        segment=backbone.segment,
        chunk_margin=backbone.chunk_margin(layers),
        min_frames=backbone.min_frames,
        max_frames=backbone.max_frames,
        token=backbone.token,
        layer_norm_eps=backbone.layer_norm_eps,
        weights=weights,
    )
