"""``fusion-engine info``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..artifact import read_report, read_spec
from ..spec import LayerSpec, Spec
from ._app import app, print_fields


@app.command()
def info(
    artifact: Annotated[
        Path,
        typer.Argument(metavar="ARTIFACT", help="An .onnx file that `fusion-engine export` wrote."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole spec as JSON.")] = False,
) -> None:
    """Show the model, layers and weights in an artifact.

    \b
    Examples:
      fusion-engine info cnn14_3_6.onnx
      fusion-engine info --json cnn14_3_6.onnx
    """
    spec = read_spec(artifact)
    if as_json:
        typer.echo(json.dumps(asdict(spec), indent=2))
        return
    print_fields(_fields(artifact, spec, read_report(artifact)))


def _fields(artifact: Path, spec: Spec, report: dict[str, Any] | None) -> list[tuple[str, str]]:
    front = spec.frontend
    hop = front.hop_length / front.sample_rate
    if spec.segment is not None:
        done = {"drop": "dropped", "pad": "padded"}[spec.segment.last]
        longer = f"segment; an incomplete last one is {done})"
    else:
        longer = "run; longer clips run in chunks)" if spec.chunk_margin is not None else "clip)"
    rate = "none (no time axis)" if spec.frame_rate is None else f"{spec.frame_rate:g} per second"
    return [
        ("artifact", str(artifact)),
        ("model", spec.model),
        ("layers", "\n".join(layer_shape(layer) for layer in spec.layers)),
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
            + longer,
        ),
        ("precision", spec.precision),
        ("weights", f"{spec.weights.source}\nSHA-256 {spec.weights.sha256}"),
        ("written by", f"{spec.producer} {spec.producer_version}, format {spec.format_version}"),
        ("verified", _verified(report)),
        ("size", f"{artifact.stat().st_size / 1e6:.1f} MB"),
    ]


def _verified(report: dict[str, Any] | None) -> str:
    if report is None:
        return "unknown: no report of this file's export is beside it"
    return (
        f"against PyTorch in FP64, largest error {max(report['max_error'].values()):.1e}; opset "
        f"{report['opset']}, {report['seconds']:.1f} s"
    )


def layer_shape(layer: LayerSpec) -> str:
    """A layer in one line, for example ``3: map [256, T, 8], time pool 4, D 2048``."""
    name = f"{layer.number}" if layer.module is None else f"{layer.number} ({layer.module})"
    if layer.kind == "vector":
        return f"{name}: vector [{layer.channels}]"
    return (
        f"{name}: map [{layer.channels}, T, {layer.freq}], time pool {layer.time_pool}, "
        f"D {layer.dim}"
    )
