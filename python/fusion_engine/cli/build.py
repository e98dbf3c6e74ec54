"""``fusion-engine build``."""

import time
from pathlib import Path
from typing import Annotated

import typer

from .._atomic import refuse_inputs
from ..engine.precision import Precision
from ..engine.tensorrt.library import Runtime
from ..engine.tensorrt.sidecar import Tiling
from ._app import app, as_options, output_path, phase_bars, print_message

Seconds = tuple[float, float, float]
Counts = tuple[int, int, int]


def _seconds(option: str, text: str | None) -> Seconds | None:
    """``MIN:OPT:MAX``, where it was given."""
    if text is None:
        return None
    try:
        least, opt, most = (float(part) for part in text.split(":"))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not MIN:OPT:MAX, for example 1:8:32", param_hint=repr(option)
        ) from None
    return least, opt, most


def _counts(option: str, text: str | None) -> Counts | None:
    """The same in whole numbers."""
    values = _seconds(option, text)
    if values is None:
        return None
    if not all(value.is_integer() for value in values):
        raise typer.BadParameter(f"{text!r} are not whole numbers", param_hint=repr(option))
    least, opt, most = map(int, values)
    return least, opt, most


@app.command()
def build(
    artifact: Annotated[
        Path,
        typer.Argument(
            metavar="ONNX",
            dir_okay=False,
            help="An .onnx file that `fusion-engine export` wrote.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PLAN",
            callback=output_path(".plan"),
            help="The .plan file to write; by default named after ONNX, beside it. "
            "PLAN.json goes with it.",
        ),
    ] = None,
    runtime: Annotated[
        Runtime | None,
        typer.Option(
            help="The library that builds the plan and can load it; by default what is installed "
            "and serves this machine's GPU. tensorrt tunes for that GPU, tensorrt_rtx needs none."
        ),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Type of the backbone's arithmetic.")
    ] = "fp16",
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="MIN:OPT:MAX",
            help="Clips (or segments) per run: the fewest, how many it is tuned for, the most; "
            "1:8:32 by default.",
        ),
    ] = None,
    seconds: Annotated[
        str | None,
        typer.Option(
            metavar="MIN:OPT:MAX",
            help="Length of a run. By default from the model's shortest input, tuned for 10 s, up "
            "to 60 s or the artifact's longest input. Memory follows the longest. Models of a "
            "fixed length take none.",
        ),
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option(metavar="MIN:OPT:MAX", help="The same in frames of log-mel."),
    ] = None,
    static_profile: Annotated[
        bool,
        typer.Option(
            help="Tune once more for the most common batch and length alone. It costs build time."
        ),
    ] = True,
    effort: Annotated[
        int,
        typer.Option(min=0, max=5, metavar="N", help="How long to look for fast kernels, 0 to 5."),
    ] = 3,
    tiling: Annotated[
        Tiling,
        typer.Option(help="How long to look for kernels that share the GPU's cache: tensorrt's."),
    ] = "none",
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="CC,CC,…",
            help="tensorrt_rtx: the compute capabilities to build for, whatever GPU is here. By "
            "default 8.0, 8.6, 8.9, 12.0 and 12.1, or 7.5 on a machine with such a GPU.",
        ),
    ] = None,
    linear_outputs: Annotated[
        bool,
        typer.Option(
            "--linear-outputs",
            help="Give FP16 and BF16 layer outputs as NCHW, for other programs; the engine reads "
            "NHWC, which needs no reformat.",
        ),
    ] = False,
    log_mel_input: Annotated[
        bool,
        typer.Option(
            "--log-mel-input",
            help="Take log-mel in FP32, for other programs; otherwise the engine's frontend kernel "
            "does what an FP16 or BF16 network does before its first convolution.",
        ),
    ] = False,
    ragged: Annotated[
        bool,
        typer.Option(
            "--ragged",
            help="CNN14: let clips of different lengths share a batch, each with the answer that "
            "it has alone; an artifact of export --ragged does so by itself.",
        ),
    ] = False,
    typed_onnx: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.onnx",
            callback=output_path(".onnx"),
            help="Also keep the typed FP16 or BF16 graph.",
        ),
    ] = None,
) -> None:
    """Build a TensorRT plan from an .onnx artifact.

    A plan runs with the version of the library that built it. Plans of tensorrt are bound to the
    kind of GPU that they were built on; those of tensorrt_rtx run on GeForce and RTX GPUs and on
    an A100, but not on an H100, H200 or B200. Needs TensorRT: pip install ".[gpu]" or ".[rtx]", in
    a clone of fusion_engine.

    \b
    Examples:
      fusion-engine build cnn14_3_6.onnx -o cnn14_3_6.plan
      fusion-engine build test.onnx --precision bf16 --seconds 1:2:10
      fusion-engine build vggish-fusion.onnx --runtime tensorrt_rtx --batch 1:4:16
    """
    from ..engine.tensorrt import build as build_plan
    from ..engine.tensorrt.targets import listed

    started = time.perf_counter()
    plan = artifact.with_suffix(".plan") if output is None else output
    for written in (plan, typed_onnx):
        if written is not None:
            refuse_inputs(written, [artifact])
    try:
        with phase_bars() as show:
            info = build_plan(
                artifact,
                plan,
                runtime=runtime,
                precision=precision,
                batch=_counts("--batch", batch),
                seconds=_seconds("--seconds", seconds),
                frames=_counts("--frames", frames),
                static_profile=static_profile,
                effort=effort,
                tiling=tiling,
                targets=None if targets is None else targets.split(","),
                linear_outputs=linear_outputs,
                log_mel_input=log_mel_input,
                ragged=ragged,
                typed_onnx=typed_onnx,
                progress=show,
            )
    except ValueError as error:
        raise typer.BadParameter(as_options(str(error))) from None
    sidecar = info.sidecar
    assert sidecar is not None  # just written
    layers = " + ".join(str(layer.number) for layer in info.spec.layers)
    print_message(
        f"{plan}: {info.spec.model}, layers {layers}, {info.spec.precision}, built by "
        f"{sidecar.runtime} {sidecar.runtime_version}, {info.bytes / 1e6:.1f} MB, "
        f"{time.perf_counter() - started:.1f} s"
    )
    memory = sidecar.activation_bytes
    needs = "" if memory is None else f"; the largest needs {memory / 1e6:.0f} MB of GPU memory"
    takes = f"{sidecar.profile.batch} clips or segments of {sidecar.profile.frames} frames"
    print_message(f"takes {takes}{needs}")
    print_message(f"runs on GPUs of compute capability {listed(sidecar.targets)}")
