"""``fusion-engine info``."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from ..artifact import EMBEDDING, SAMPLES, read_report, read_spec, takes_samples
from ..engine.cut import core_frames
from ..engine.tensorrt.plan_file import PlanInfo, read_plan
from ..engine.tensorrt.targets import listed
from ..errors import FusionEngineError
from ..spec import LayerSpec, Spec
from ._app import app
from ._columns import print_wrapped
from ._onnx_facts import OnnxFacts, onnx_facts

Fields = list[tuple[str, str]]


@app.command()
def info(
    artifact: Annotated[
        Path,
        typer.Argument(
            metavar="ARTIFACT",
            help="An .onnx file that `fusion-engine export` wrote, or a .plan of `build`.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole spec as JSON.")] = False,
) -> None:
    """Show the model, layers and weights in an artifact.

    Of a plan also what it was built for, and whether it can run here; no GPU is needed to ask.

    \b
    Examples:
      fusion-engine info cnn14_3_6.onnx
      fusion-engine info --json cnn14_3_6.onnx
      fusion-engine info cnn14_3_6.plan
    """
    plan = read_plan(artifact) if artifact.suffix == ".plan" else None
    spec = read_spec(artifact) if plan is None else plan.spec
    if as_json:
        typer.echo(json.dumps(asdict(spec), indent=2))
        return
    precision = _calibrated(spec)
    waveform = takes_samples(artifact)
    size = f"{artifact.stat().st_size / 1e6:.1f} MB"
    if plan is None:
        facts = onnx_facts(artifact)
        precision, size = _precision(spec, facts), size + _external(facts)
        rest = _onnx_fields(artifact, spec, waveform)
    else:
        rest = _plan_fields(plan)
    print_wrapped(
        [
            ("artifact", str(artifact)),
            *_spec_fields(spec, precision, waveform),
            *rest,
            ("size", size),
        ]
    )


def _precision(spec: Spec, facts: OnnxFacts) -> str:
    """What the graph computes in, and what the spec says where that is something else."""
    # TF32 is how a GPU computes a graph in FP32.
    if facts.precision == spec.precision or (facts.precision, spec.precision) == ("fp32", "tf32"):
        return _calibrated(spec)
    how = " (Q/DQ)" if facts.explicit else ""
    return f"{facts.precision}{how}, spec says {spec.precision}"


def _calibrated(spec: Spec) -> str:
    found = spec.quantization
    if found is None:
        return spec.precision
    clips = "1 clip" if found.clips == 1 else f"{found.clips} clips"
    return f"{spec.precision}, {found.method} over {clips}"


def _external(facts: OnnxFacts) -> str:
    return "".join(
        f"\nexternal data {name}: "
        + ("missing, keep it beside the artifact" if size is None else f"{size / 1e6:.1f} MB")
        for name, size in facts.external.items()
    )


def _spec_fields(spec: Spec, precision: str, waveform: bool) -> Fields:
    front = spec.frontend
    hop = front.hop_length / front.sample_rate
    if spec.segment is not None:
        done = {"drop": "dropped", "pad": "padded"}[spec.segment.last]
        longer = f"segment; an incomplete last one is {done})"
    else:
        longer = "run; longer clips run in chunks)" if _cuts(spec) else "clip)"
    rate = "none (no time axis)" if spec.frame_rate is None else f"{spec.frame_rate:g} per second"
    if waveform:
        rate = "none (a waveform artifact)"
    return [
        ("model", spec.model),
        ("layers", "\n".join(layer_lines(spec.layers))),
        ("embedding", f"{spec.embedding_dim} × float32, head {spec.head}"),
        ("frame features", rate),
        ("sample rate", f"{front.sample_rate} Hz"),
        (
            "frontend",
            f"{front.preset}: window {front.win_length}, FFT {front.n_fft}, hop "
            f"{front.hop_length}, {front.n_mels} mel bins {front.f_min:g}…{front.f_max:g} Hz",
        ),
        (
            "input",
            f"{spec.min_frames}…{spec.max_frames} frames (up to {spec.max_frames * hop:.1f} s a "
            + longer
            + ("\nclips of different lengths share a batch (valid_frames)" if spec.masked else ""),
        ),
        ("precision", precision),
        ("weights", f"{spec.weights.source}\nSHA-256 {spec.weights.sha256}"),
        ("written by", f"{spec.producer} {spec.producer_version}, format {spec.format_version}"),
    ]


def _cuts(spec: Spec) -> bool:
    """Whether clips beyond the longest input can be cut into chunks."""
    margin, step = spec.chunk_margin, spec.frames_per_step
    if margin is None or step is None:
        return False
    return core_frames(spec.max_frames, margin, step) >= step


def _plan_fields(plan: PlanInfo) -> Fields:
    sidecar = plan.sidecar
    runs = ("runs here", _runs_here(plan))
    if sidecar is None:
        return [
            ("built by", "unknown: no sidecar is beside the plan"),
            ("SHA-256", "not checked"),
            runs,
        ]
    gpu = "without a GPU"
    if sidecar.gpu is not None:
        gpu = f"on an {sidecar.gpu} (compute capability {sidecar.compute_capability})"
    memory = "unknown"
    if sidecar.activation_bytes is not None:
        memory = f"{sidecar.activation_bytes / 1e6:.0f} MB at the largest input"
    return [
        ("profiles", "\n".join(map(str, sidecar.profiles))),
        (
            "tensors",
            "\n".join(
                f"{tensor.name}: {tensor.dtype} {list(tensor.shape)}, {tensor.format}"
                for tensor in sidecar.tensors
            ),
        ),
        ("activations", memory),
        (
            "built by",
            f"{sidecar.runtime} {sidecar.runtime_version} {gpu}, {sidecar.system}, effort "
            f"{sidecar.effort}, tiling {sidecar.tiling}",
        ),
        ("built for", f"compute capability {listed(sidecar.targets)}"),
        ("built from", f"{sidecar.source.name}\nSHA-256 {sidecar.source.sha256}"),
        ("SHA-256", f"{sidecar.sha256}, as the sidecar says"),
        ("certificate", _certificate(sidecar.parity)),
        runs,
    ]


def _certificate(parity: dict[str, Any] | None) -> str:
    if parity is None:
        return "none: make one with `fusion-engine parity`"
    verdict = "passed" if parity.get("passed") else "failed"
    how = "emulated with " if parity.get("emulated") else ""
    return (
        f"{verdict}, {how}{parity.get('backend', 'unknown backend')}, {parity.get('created', '')}"
    )


def _runs_here(plan: PlanInfo) -> str:
    """Yes and on what, or everything that stands in the way."""
    from ..engine.devices import find_gpu
    from ..engine.tensorrt.checks import check_machine, library_of

    problems, gpu, library = list[str](), None, None
    try:
        gpu = find_gpu()
    except FusionEngineError as error:
        problems.append(f"no: {error}")
    try:
        library = library_of(plan, gpu)
        check_machine(plan, library=library, gpu=gpu)
    except FusionEngineError as error:
        problems.append(f"no: {error}")
    if problems:
        return "\n".join(problems)
    if plan.sidecar is None:
        return f"perhaps, on {gpu} with {library}: no sidecar says what it was built for"
    return f"yes, on {gpu} with {library}"


def _onnx_fields(artifact: Path, spec: Spec, waveform: bool) -> Fields:
    report, peer, fields = read_report(artifact), "PyTorch in FP64", list[tuple[str, str]]()
    if waveform:
        peer = "the artifact that it was made of, on noise"
        graph = f"{SAMPLES} [B, N] to {EMBEDDING} [B, {spec.embedding_dim}] in one graph"
        fields.append(("waveform", f"{graph}, the frontend in FP32"))
    if report is None:
        return [*fields, ("verified", "unknown: no report of this file's export is beside it")]
    lost = report.get("relative_l2")
    if lost is not None:
        found = (
            f"against the FP32 artifact, embedding off by {lost['embedding']:.3f} (relative L2), "
            f"accepted {lost['bound']:g}"
        )
    else:
        found = (
            f"against {peer}, largest error {max(report['max_error'].values()):.1e}; opset "
            f"{report['opset']}, {report['seconds']:.1f} s"
        )
    certificates = report.get("parity", {})
    lines = [f"{name}: {_certificate(parity)}" for name, parity in certificates.items()]
    certificate = "\n".join(lines) or _certificate(None)
    return [*fields, ("verified", found), ("certificate", certificate)]


def layer_lines(layers: Iterable[LayerSpec]) -> list[str]:
    """The layers, neighbours of one shape together: ``1…12: vector [768]``."""
    return [
        f"{_numbers(group)}{_modules(group)}: {shape}"
        for shape, group in ((shape, list(found)) for shape, found in groupby(layers, _shape))
    ]


def _shape(layer: LayerSpec) -> str:
    if layer.kind == "vector":
        return f"vector [{layer.channels}]"
    return f"map [{layer.channels}, T, {layer.freq}], time pool {layer.time_pool}, D {layer.dim}"


def _numbers(layers: Sequence[LayerSpec]) -> str:
    """Their numbers, three and more in a row as first and last."""
    numbers = [layer.number for layer in layers]
    rows = [
        [number for _, number in row]
        for _, row in groupby(enumerate(numbers), lambda item: item[1] - item[0])
    ]
    return ", ".join(
        f"{row[0]}…{row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows
    )


def _modules(layers: Sequence[LayerSpec]) -> str:
    names = [layer.module for layer in layers if layer.module is not None]
    shown = names if len(names) < 3 else [names[0], "…", names[-1]]
    return f" ({', '.join(shown).replace(', …,', ' …')})" if names else ""
