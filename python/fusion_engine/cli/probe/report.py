"""``fusion-engine probe report``."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..._atomic import atomic_path, create_folder
from ..._words import counted
from .._app import check_writable, output_path, print_message, step_bar
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
    from ...probe.records import ProbeRecord
    from ...probe.tasks import Task


def _outputs(paths: list[Path] | None) -> list[Path] | None:
    check = output_path(".md", ".csv", ".tex")
    for path in paths or []:
        check(path)
    return paths


@probe.command()
def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RESULT_OR_FOLDER",
            help=f"What `probe run` or `probe layers` wrote; {DEFAULT_FOLDER} by default.",
        ),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            callback=_outputs,
            help="A .md, .csv or .tex file to write; may be repeated. Markdown to standard output "
            "by default.",
        ),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Published numbers in place of those in the package: a copy of "
            "fusion_engine/probe/published.json with others.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="First run this model's last layer and fusion (its presets): cnn14, vggish or "
            "ast; may be repeated. The results go to the first FOLDER named.",
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
    seeds: Seeds = 3,
    split_seed: SplitSeed = 0,
    device: Device = "auto",
    threads: Threads = None,
    train_device: TrainDevice = "cpu",
    cache: CacheFolder = None,
) -> None:
    """Make the paper's Table III of what was probed.

    For each model the last layer, the fusion and their difference, task by task and on average,
    beside the published numbers; other systems below.

    \b
    Examples:
      fusion-engine probe report probe-results
      fusion-engine probe report probe-results -o table.md -o table.tex
      fusion-engine probe report --model cnn14 --weights random:0 --task synthetic
    """
    from ...probe.accuracy_table import TABLE_FORMATS, accuracy_table
    from ...probe.published import published as read_published
    from ...probe.records import load_records

    for path in output or []:
        check_writable(path)
    tables = read_published(published)
    folders = results or [DEFAULT_FOLDER]
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
    if model:
        tasks = asked.read()
        create_folder(folders[0])
        probing = Probing(
            device=device, train_device=train_device, threads=threads, seeds=seeds, cache=cache
        )
        for name in dict.fromkeys(model):
            for record in _run_presets(name, weights, tasks, probing):
                record.save(folders[0])
    elif asked.given:
        raise typer.BadParameter(
            "--task, --csv and --folder are for --model: name what to run on them"
        )
    table = accuracy_table(load_records(folders), tables)
    if not output:
        typer.echo(table.render("md"), nl=False)
    for path in output or []:
        form = next(form for form in TABLE_FORMATS if path.suffix.lower() == f".{form}")
        with atomic_path(path) as temporary:
            temporary.write_text(table.render(form), encoding="utf-8")
        print_message(
            f"{path}: {counted(len(table.rows), 'row')}, {counted(len(table.tasks), 'task')}"
        )


def _run_presets(
    model: str, weights: str, tasks: "list[Task]", probing: Probing
) -> "Iterator[ProbeRecord]":
    """A model's last layer and its fusion on the tasks, from one pass over the audio."""
    from ...export import PRESETS, export, resolve

    backbone = resolve(model)
    presets = [preset for preset in PRESETS.values() if preset.model == backbone.name]
    if not presets:
        models = ", ".join(dict.fromkeys(preset.model for preset in PRESETS.values()))
        raise typer.BadParameter(f"{model} has no presets, expected one of {models}")
    layers = sorted({layer for preset in presets for layer in preset.layers})
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / f"{backbone.name}.onnx"
        with step_bar(model, steps=3) as step:
            export(model, artifact, layers=layers, weights=weights, progress=step)
        with Bars() as bars:
            prober = probing.open(artifact, bars.show)
            choices = [preset.layers for preset in presets]
            bars.expect(len(tasks) * len(choices))
            for one in tasks:
                for record in prober.probe(one, choices):
                    yield record
                    bars.result(result_line(record))
