"""``fusion-engine export``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ._app import app, output_path, print_message, print_step


class _ManyLayers(TyperCommand):
    """Lets ``--layers 3 6`` stand for ``--layers 3 --layers 6``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread = list[str]()
        numbers: int | None = None  # of the list that the last argument belongs to
        for arg in args:
            if arg == "--layers" or arg.startswith("--layers="):
                numbers = int("=" in arg)
            elif numbers is not None and arg.isdecimal():
                if numbers:
                    spread.append("--layers")
                numbers += 1
            else:
                numbers = None
            spread.append(arg)
        return super().parse_args(ctx, spread)


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a layer's number; separate several by spaces: --layers 3 6"
        ) from None


@app.command(cls=_ManyLayers)
def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name that `fusion-engine models` lists.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            callback=output_path(".onnx"),
            help="The .onnx file to write.",
        ),
    ],
    layers: Annotated[
        list[int] | None,
        typer.Option(
            "--layers",
            metavar="N N ...",
            parser=_number,
            help="Layers to fuse, by the paper's numbers, in this order; the paper's by default.",
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            "-w",
            metavar="pretrained|random:SEED|PATH",
            help="A download, seeded random numbers, or a checkpoint.",
        ),
    ] = "pretrained",
    seconds: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Longest input of one run, 60 by default. Longer clips run in exact chunks, "
            "except through a layer that pools over the whole clip.",
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(metavar="N", help="The same in frames of log-mel.")
    ] = None,
) -> None:
    """Export a model to an .onnx artifact.

    Its outputs are the layers you choose, and the file appears only once they agree with PyTorch's.
    Needs PyTorch: pip install "fusion-engine[export]"

    \b
    Examples:
      fusion-engine export cnn14 --weights pretrained -o cnn14_3_6.onnx
      fusion-engine export cnn14_32k --layers 3 6 -w Cnn14.pth -o cnn14_32k.onnx
      fusion-engine export cnn14 --layers 1 -w random:0 --seconds 10 -o test.onnx
    """
    if seconds is not None and frames is not None:
        raise typer.BadParameter("--seconds and --frames say the same: give one of them")
    from ..export import export as export_model

    report = export_model(
        model,
        output,
        layers=layers,
        weights=weights,
        seconds=seconds,
        frames=frames,
        progress=lambda step: print_step(f"{model}: {step} …"),
    )
    print_message(
        f"{report.path}: {report.spec.model}, layers {' + '.join(map(str, report.layers))}, "
        f"D = {report.spec.embedding_dim}, weights {report.spec.weights.source}, opset "
        f"{report.opset}, {report.bytes / 1e6:.1f} MB, {report.seconds:.1f} s"
    )
    print_message(
        f"verified against PyTorch in FP64: largest error {max(report.max_error.values()):.1e} of "
        "a layer's largest value"
    )
