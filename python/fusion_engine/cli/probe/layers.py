"""``fusion-engine probe layers``."""

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from ..._atomic import create_folder
from ..._words import counted
from .._app import print_fields, print_message, step_bar
from ._app import probe
from ._bars import Bars
from ._options import (
    DEFAULT_FOLDER,
    CacheFolder,
    ClassFolders,
    CsvFiles,
    DataFolders,
    Device,
    ExcludeLists,
    Normalization,
    OutputFolder,
    OwnSeconds,
    Probing,
    Seeds,
    SplitLists,
    SplitSeed,
    TaskNames,
    TaskOptions,
    Threads,
    TrainDevice,
    Weights,
    result_line,
)

if TYPE_CHECKING:
    from ...probe.layers import LayerStudy
    from ...probe.records import ProbeRecord


@probe.command()
def layers(
    artifact: Annotated[
        Path | None,
        typer.Argument(metavar="ARTIFACT", help="An artifact with two or more layers."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="In place of ARTIFACT: export this model with all of its layers into FOLDER "
            "first.",
        ),
    ] = None,
    weights: Weights = "pretrained",
    task: TaskNames = None,
    data: DataFolders = None,
    csv: CsvFiles = None,
    folder: ClassFolders = None,
    seconds: OwnSeconds = None,
    split_list: SplitLists = None,
    exclude_list: ExcludeLists = None,
    output: OutputFolder = DEFAULT_FOLDER,
    normalization: Normalization = None,
    seeds: Seeds = 3,
    split_seed: SplitSeed = 0,
    device: Device = "auto",
    threads: Threads = None,
    train_device: TrainDevice = "cpu",
    cache: CacheFolder = None,
) -> None:
    """Evaluate every layer of a model, and choose two to fuse.

    One pass over the audio serves all layers. Prints the accuracies, the paper's choice of a
    middle layer M and a late layer L, and the command that exports them. FOLDER gets layers.json,
    layers.csv, the picture as layers.png and layers.svg, and a result for each layer and task.

    M is best on average over the tasks that peak in the lower half of the layers, L over the tasks
    that peak in the upper half.

    \b
    Examples:
      fusion-engine probe layers --model cnn14 --weights random:0 --task synthetic
      fusion-engine probe layers cnn14_all.onnx -t gtzan -d gtzan -o gtzan-layers
    """
    if (artifact is None) == (model is None):
        raise typer.BadParameter("give an ARTIFACT, or --model NAME")
    asked = TaskOptions(
        names=task,
        data=data,
        csvs=csv,
        folders=folder,
        seconds=seconds,
        split_lists=split_list,
        exclude_lists=exclude_list,
        split_seed=split_seed,
    )
    tasks = asked.read()
    create_folder(output)
    from ...probe.layers import export_all_layers, study_layers

    probing = Probing(
        device=device,
        train_device=train_device,
        threads=threads,
        seeds=seeds,
        cache=cache,
        normalization=normalization,
    )
    if model is not None:
        with step_bar(model, steps=3) as step:
            artifact = export_all_layers(model, output, weights=weights, progress=step)
    assert artifact is not None

    with Bars() as bars:

        def keep(record: "ProbeRecord") -> None:
            record.save(output)
            bars.result(result_line(record))

        prober = probing.open(artifact, bars.show)
        # Every layer, and the two that are chosen, fused.
        bars.expect(len(tasks) * (len(prober.engine.spec.layers) + 1))
        study = study_layers(prober, tasks, save=keep)
    study.save(output)
    _print(study)
    print_message(
        f"{output}: {counted(len(study.singles) + len(study.fused), 'result')}, layers.json, "
        "layers.csv, layers.png, layers.svg"
    )


def _print(study: "LayerStudy") -> None:
    """The accuracies in percent, a line for each task and their mean, and what follows."""
    titles = {record.result.task: record.title for record in study.singles}
    fused = {record.result.task: record.result.accuracy for record in study.fused}
    header = ["layer", *(str(layer.number) for layer in study.spec.layers)]
    header += ["+".join(map(str, study.choice.layers))] if fused else []
    table = {
        task: [values[layer.number] for layer in study.spec.layers]
        + ([fused[task]] if fused else [])
        for task, values in study.accuracy.items()
    }
    rows = [*((titles[task], values) for task, values in table.items())]
    rows.append(("average", [fmean(column) for column in zip(*table.values(), strict=True)]))
    lines = [header, *([name, *(f"{100 * v:.1f}" for v in values)] for name, values in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *cells in lines:
        padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        typer.echo("  ".join([f"{name:{widths[0]}}", *padded]))
    typer.echo()
    late = ", ".join(titles[task] for task in study.choice.late_tasks) or "none"
    print_fields(
        [
            ("M", f"layer {study.choice.middle}"),
            ("L", f"layer {study.choice.late}"),
            ("peak late", late),
            ("export", study.export_command or "with fusion_engine.export.export_module"),
        ]
    )
    for note in study.choice.notes:
        print_message(f"note: {note}")
