"""``fusion-engine export``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ._app import app, stderr, stdout


class _ManyLayers(TyperCommand):
    """Lets ``--layers 3 6`` stand for ``--layers 3 --layers 6``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread, listing = list[str](), False
        for arg in args:
            if listing and arg.lstrip("-").isdigit():
                spread += ["--layers", arg]
                continue
            listing = arg == "--layers"
            if not listing:
                spread.append(arg)
        if args and args[-1] == "--layers":
            spread.append("--layers")  # with no number: let the parser say so
        return super().parse_args(ctx, spread)


@app.command(cls=_ManyLayers)
def export(
    model: Annotated[str, typer.Argument(help="cnn14, or another name of `fusion-engine models`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.")],
    layers: Annotated[
        list[int] | None,
        typer.Option(
            "--layers",
            metavar="N N …",
            help="Layers to fuse, by the paper's numbers, in this order. Default: the paper's.",
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            "--weights", "-w", help="'pretrained' (downloads), 'random:SEED', or a checkpoint."
        ),
    ] = "pretrained",
    seconds: Annotated[
        float | None,
        typer.Option(help="Longest input of one run, 60 s by default; longer clips run in chunks."),
    ] = None,
    frames: Annotated[int | None, typer.Option(help="The same, in frames of log-mel.")] = None,
) -> None:
    """Export a model with the layers you choose to an .onnx artifact, verified against PyTorch.

    fusion-engine export cnn14 --layers 3 6 --weights pretrained -o cnn14_3_6.onnx
    """
    from ..export import export as export_model

    with stderr.status(f"Exporting {model} …"):
        report = export_model(
            model, output, layers=layers, weights=weights, seconds=seconds, frames=frames
        )
    names = " + ".join(str(layer.number) for layer in report.spec.layers)
    stdout.print(
        f"{report.path}: {report.spec.model}, layers {names}, D = {report.spec.embedding_dim}, "
        f"opset {report.opset}, {report.bytes / 1e6:.1f} MB, weights {report.spec.weights.source}",
        highlight=False,
        soft_wrap=True,
    )
    stdout.print(
        f"verified against PyTorch: largest error {max(report.max_error.values()):.1e} of the "
        f"largest value; {report.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
