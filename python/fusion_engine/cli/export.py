"""``fusion-engine export``."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ..spec import Token
from ._app import app, check_writable, output_path, print_message, step_bar

if TYPE_CHECKING:
    from ..export import ExportReport


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
        str | None,
        typer.Argument(metavar="MODEL", help="A name that `fusion-engine models` lists."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            callback=output_path(".onnx"),
            help="The .onnx file to write; by default named after the preset, or after the model "
            "and its layers, in this folder.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A system of the paper in place of MODEL and --layers: cnn14-fusion, cnn14-last, "
            "vggish-fusion, vggish-last, ast-fusion or ast-last.",
        ),
    ] = None,
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
            help="A download, seeded random numbers, or a checkpoint: what torch.save wrote, "
            ".safetensors, or for AST a folder of transformers.",
        ),
    ] = "pretrained",
    key: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The checkpoint's entry with the weights, such as model_ema or net.encoder; by "
            "default the only one, or the usual one (model, state_dict, model_state_dict).",
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What the names of the model's tensors begin with in the checkpoint; by default "
            "what wrappers put there (module., model., net., base., _orig_mod.).",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="CNN14: longest input of one run, 60 by default; longer clips run in exact "
            "chunks, except through layer 7, which pools over the whole clip. AST: the one input "
            "length; shorter clips are padded to it and longer ones cut.",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="The same in frames of log-mel; AST's default is its checkpoint's, 1024 for the "
            "released one.",
        ),
    ] = None,
    token: Annotated[
        Token | None,
        typer.Option(
            help="What AST's layers give: the mean of CLS and distillation token, its default, or "
            "CLS alone."
        ),
    ] = None,
    ragged: Annotated[
        bool,
        typer.Option(
            "--ragged",
            help="CNN14: let clips of different lengths share a batch, each with the answer that "
            "it has alone.",
        ),
    ] = False,
    waveform: Annotated[
        bool,
        typer.Option(
            "--waveform",
            help="Write one plain ONNX graph from samples to embedding, for any ONNX Runtime; its "
            "frontend is in FP32, and on a GPU the ordinary artifact is the one to run.",
        ),
    ] = False,
) -> None:
    """Export a model to an .onnx artifact.

    Its outputs are the layers you choose, and the file appears only once they agree with PyTorch's.
    Needs PyTorch: pip install ".[export]", in a clone of fusion_engine.

    \b
    Examples:
      fusion-engine export --preset cnn14-fusion
      fusion-engine export cnn14 --weights pretrained -o cnn14_3_6.onnx
      fusion-engine export cnn14_32k --layers 3 6 -w Cnn14.pth -o cnn14_32k.onnx
      fusion-engine export cnn14 -w tuned.ckpt --key ema.model --prefix audio
      fusion-engine export cnn14 --layers 1 -w random:0 --seconds 10 -o test.onnx
      fusion-engine export --preset cnn14-fusion --waveform
    """
    if seconds is not None and frames is not None:
        raise typer.BadParameter("--seconds and --frames say the same: give one of them")
    if ragged and waveform:
        raise typer.BadParameter("--ragged is for log-mel, and --waveform takes samples: give one")
    from ..export import export as export_model
    from ..export import preset as find_preset
    from ..export import resolve

    if preset is not None:
        if model is not None or layers:
            raise typer.BadParameter("--preset stands for MODEL and --layers: leave them out")
        chosen = find_preset(preset)
        model, layers = chosen.model, list(chosen.layers)
    elif model is None:
        raise typer.BadParameter("give a MODEL, or --preset NAME")
    if output is None:
        numbers = layers or resolve(model).default_layers
        name = preset or "_".join([model, *map(str, numbers)])
        output = Path(f"{name}.waveform.onnx" if waveform else f"{name}.onnx")
    check_writable(output, [weights])

    def exported(path: Path) -> "ExportReport":
        return export_model(
            model,
            path,
            layers=layers or None,
            weights=weights,
            key=key,
            prefix=prefix,
            seconds=seconds,
            frames=frames,
            token=token,
            ragged=ragged,
            progress=step,
        )

    with step_bar(model, steps=5 if waveform else 3) as step:
        if waveform:
            layers_report, report = _waveform(exported, output, step)
            took = layers_report.seconds + report.seconds
        else:
            layers_report = report = exported(output)
            took = report.seconds
    print_message(
        f"{report.path}: {report.spec.model}, layers {' + '.join(map(str, report.layers))}, "
        f"D = {report.spec.embedding_dim}, weights {report.spec.weights.source}, opset "
        f"{report.opset}, {report.bytes / 1e6:.1f} MB, {took:.1f} s"
    )
    print_message(
        "verified against PyTorch in FP64: largest error "
        f"{max(layers_report.max_error.values()):.1e} of a layer's largest value"
    )
    if waveform:
        print_message(
            "samples to embedding in one graph, verified against the engine on noise: largest "
            f"error {report.max_error['embedding']:.1e} of the largest value"
        )


def _waveform(
    exported: Callable[[Path], "ExportReport"], output: Path, step: Callable[[str], None]
) -> tuple["ExportReport", "ExportReport"]:
    """The reports of the layers, which are not kept, and of the waveform graph."""
    from ..export import export_waveform

    # Beside the output, where there is room for a file of its size.
    with tempfile.TemporaryDirectory(prefix=f".{output.stem}-", dir=output.parent) as folder:
        layers = exported(Path(folder, "layers.onnx"))
        return layers, export_waveform(layers.path, output, progress=step)
