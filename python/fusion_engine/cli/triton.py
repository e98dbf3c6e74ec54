"""``fusion-engine triton``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ._app import app, as_options, print_message


@app.command()
def triton(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="The .onnx or .plan.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="REPOSITORY", help="The folder; it may have other models."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="The model's name; by default the artifact's file name.")
    ] = None,
    device: Annotated[
        Literal["cuda", "cpu"], typer.Option(help="Instances on every GPU, or on the CPU.")
    ] = "cuda",
    instances: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many, on each GPU or on the CPU.")
    ] = 1,
    max_batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="The most clips that are run together.")
    ] = 64,
    max_delay: Annotated[
        int, typer.Option(min=0, metavar="MICROSECONDS", help="How long a request waits for more.")
    ] = 500,
    warmup: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="Length of the clips run before it is ready; 0: none."
        ),
    ] = 10.0,
    network: Annotated[
        bool,
        typer.Option(
            "--network",
            help="Also add NAME_network: the network alone, from log-mel to layer outputs.",
        ),
    ] = False,
) -> None:
    """Write a model repository for NVIDIA Triton Inference Server.

    The model takes `samples` [clips, N] and gives `embedding` [clips, D], both FP32. Requests of
    any lengths are run together, and samples in GPU memory stay there. The server's Python must
    have fusion_engine: docs/triton.md.

    \b
    Examples:
      fusion-engine triton cnn14_3_6.plan -o models/
      fusion-engine triton cnn14_3_6.onnx -o models/ --device cpu --instances 2
    """
    from ..triton import write_repository

    try:
        models = write_repository(
            artifact,
            output,
            name=name,
            device=device,
            instances=instances,
            max_batch=max_batch,
            max_delay=max_delay,
            warmup=warmup,
            network=network,
        )
    except ValueError as error:
        raise typer.BadParameter(as_options(str(error))) from None
    for model in models:
        print_message(f"wrote {model}")
