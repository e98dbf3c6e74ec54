"""``fusion-engine quantize``."""

from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer

from ._app import app, check_writable, output_path, phase_bars, print_message


@app.command()
def quantize(
    artifact: Annotated[
        Path,
        typer.Argument(metavar="ARTIFACT", help="The FP32 .onnx that `export` wrote."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.onnx",
            callback=output_path(".onnx"),
            help="The artifact to write.",
        ),
    ],
    precision: Annotated[
        Literal["int8", "fp8"], typer.Option(help="INT8, or FP8 (E4M3), which a CPU only emulates.")
    ] = "int8",
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE_OR_FOLDER",
            help="Audio like yours, of each file its first minute; may be given again. Synthetic "
            "signals by default.",
        ),
    ] = None,
    method: Annotated[
        Literal["percentile", "entropy", "minmax"],
        typer.Option(
            help="The range of activations: all (minmax), all but one value in 100 000 "
            "(percentile), or what changes their distribution least (entropy)."
        ),
    ] = "percentile",
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER",
            help="Leave this convolution or product in FP32, by the name that is printed; may be "
            "given again.",
        ),
    ] = None,
    auto_keep: Annotated[
        float | None,
        typer.Option(
            metavar="BOUND",
            min=0.0,
            help="Leave more in FP32, what loses most first, until the embedding's relative L2 "
            "error is at most this.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write it even where it loses more than its bound.")
    ] = False,
) -> None:
    """Make an artifact in 8 bits, for CPUs and TensorRT.

    Scales are found on audio. What is lost is measured against the artifact in FP32, layer by
    layer, and too much of it is refused. The file runs like any other artifact, and `build` makes
    a plan of it.

    \b
    Examples:
      fusion-engine quantize cnn14_3_6.onnx --calibration clips/ -o int8.onnx
      fusion-engine quantize vggish.onnx --precision fp8 -o vggish.fp8.onnx
      fusion-engine quantize ast.onnx --auto-keep 0.02 -o ast.int8.onnx
      fusion-engine quantize test.onnx --keep conv_block2.conv1 -o test.int8.onnx
    """
    from ..quantization import quantize as quantize_model

    check_writable(output, [artifact, *(calibration or [])])
    if not calibration:
        print_message(
            "no --calibration: synthetic signals serve; audio like yours gives better scales"
        )
    try:
        with phase_bars() as progress:
            report = quantize_model(
                artifact,
                output,
                precision=precision,
                calibration=calibration or [],
                method=method,
                keep=keep or [],
                auto_keep=auto_keep,
                force=force,
                progress=progress,
            )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    kept = f", {len(report.kept)} in FP32" if report.kept else ""
    print_message(
        f"{report.path}: {report.spec.model}, {precision}, {len(report.products)} convolutions "
        f"and products{kept}, {report.bytes / 1e6:.1f} MB, {report.seconds:.1f} s"
    )
    for name, lost in report.layers.items():
        print_message(f"{name}: relative L2 error {lost:.4f}")
    print_message(
        f"embedding: relative L2 error {report.embedding:.4f} in the worst clip, accepted "
        f"{report.bound:g}"
    )
    worst = islice(report.products.items(), 3)
    print_message("what adds most: " + ", ".join(f"{name} ({added:.4f})" for name, added in worst))
