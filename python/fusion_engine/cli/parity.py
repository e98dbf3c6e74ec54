"""``fusion-engine parity``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ._app import app, as_options, check_writable, output_path, print_message, step_bar

if TYPE_CHECKING:
    from rich.table import Table

    from ..parity import Certificate, Comparison

_INPUTS = {
    "same_log_mel": "the same log-mel in both",
    "end_to_end": "end to end, with the published frontend",
}
_WIDTH = 100  # of a table; nothing of it is cut where the terminal is narrower
_SHOWN = 5


@app.command()
def parity(
    artifact: Annotated[
        Path,
        typer.Argument(
            metavar="ARTIFACT",
            help="An .onnx or .plan file, or a typed .onnx of `build --typed-onnx`.",
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="pretrained|random:SEED|PATH",
            help="What the artifact was exported with; by default what it says itself, where that "
            "is not a file.",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The --key that it was exported with, if any."),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The --prefix that it was exported with, if any."),
    ] = None,
    audio: Annotated[
        list[Path] | None,
        typer.Option(
            "--audio",
            metavar="FILE",
            help="Also compare on this file (the first 75 s); may be given again.",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp16", "bf16"] | None,
        typer.Option(help="Emulate this precision on the CPU, from an FP32 .onnx."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.json",
            callback=output_path(".json"),
            help="The certificate as JSON; it is also kept in ARTIFACT.json, if that is there.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPU threads; every core by default.")
    ] = None,
) -> None:
    """Certify that an artifact gives its PyTorch model's values.

    Layer outputs, frame features and embeddings over synthetic signals, and over the audio you
    name, are compared with the published model in FP64, number by number, beside the error that
    PyTorch itself makes in the artifact's precision. The exit status is 1 when the artifact fails.
    Needs PyTorch: pip install ".[export]", in a clone of fusion_engine.

    \b
    Examples:
      fusion-engine parity cnn14_3_6.onnx
      fusion-engine parity cnn14_3_6.onnx --precision fp16 -o fp16.json
      fusion-engine parity cnn14_3_6.plan --weights Cnn14_16k.pth --audio clip.wav
    """
    from ..parity import certify
    from ..parity.record import record
    from ..parity.subject import signals_of

    if output is not None:
        check_writable(output, [artifact, *(audio or [])])
    signals = signals_of(artifact)
    files = audio or []
    try:
        with step_bar(artifact.name, steps=2 + len(signals) + len(files)) as step:
            certificate = certify(
                artifact,
                weights=weights,
                key=key,
                prefix=prefix,
                audio=files,
                signals=signals,
                precision=precision,
                device=device,
                threads=threads,
                progress=step,
            )
    except ValueError as error:
        raise typer.BadParameter(as_options(str(error))) from None
    _print(certificate)
    if output is not None:
        certificate.save(output)
        print_message(f"certificate: {output}")
    beside = record(certificate, artifact)
    if beside is not None:
        print_message(f"kept in {beside}, for `fusion-engine info`")
    if not certificate:
        raise typer.Exit(1)


def _print(certificate: Certificate) -> None:
    """The certificate, for people, on stdout."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)
    how = f"emulated with {certificate.backend}" if certificate.emulated else certificate.backend
    layers = " + ".join(map(str, certificate.layers))
    audio = sum(clip.seconds for clip in certificate.clips)
    for line in (
        f"{certificate.artifact}: {certificate.model}, layers {layers}, {certificate.precision}, "
        f"{how}, {certificate.device}",
        f"weights {certificate.weights.source}, SHA-256 {certificate.weights.sha256}",
        f"{len(certificate.clips)} clips, {audio:.1f} s of audio, compared in "
        f"{certificate.seconds:.1f} s",
    ):
        console.print(Text(line), soft_wrap=True)
    for name, title in _INPUTS.items():
        comparisons = [entry for entry in certificate.comparisons if entry.input == name]
        if comparisons:
            console.print(_table(title, comparisons))
    problems = certificate.problems
    for problem in problems[:_SHOWN]:
        console.print(Text(problem), soft_wrap=True)
    if len(problems) > _SHOWN:
        console.print(Text(f"and {len(problems) - _SHOWN} more"))
    verdict = ("passed", "green") if certificate else ("failed", "red")
    console.print(Text.assemble("parity: ", verdict))


def _table(title: str, comparisons: list[Comparison]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("output", no_wrap=True)
    for heading in ("error", "required", "torch", "L2", "torch", "med rel", "1-cos"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for entry in comparisons:
        numbers = (
            entry.artifact.error,
            entry.required_error,
            entry.pytorch.error,
            entry.artifact.l2_relative,
            entry.pytorch.l2_relative,
            entry.artifact.median_reldiff,
            1.0 - entry.artifact.cosine_min,
        )
        table.add_row(entry.output, *(f"{number:.1e}" for number in numbers), _verdict(entry))
    return table


def _verdict(entry: Comparison) -> str:
    if entry:
        return "[green]ok[/]"
    return "[red]NaN/Inf[/]" if entry.artifact.non_finite else "[red]FAILED[/]"
