"""``fusion-engine probe run``."""

from pathlib import Path
from typing import Annotated

import typer

from ..._atomic import create_folder
from ..._words import counted
from ...spec import Head
from .._app import print_message
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
    percent,
)


@probe.command()
def run(
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", help="What export or build wrote.")
    ],
    task: TaskNames = None,
    data: DataFolders = None,
    csv: CsvFiles = None,
    folder: ClassFolders = None,
    seconds: OwnSeconds = None,
    split_list: SplitLists = None,
    exclude_list: ExcludeLists = None,
    output: OutputFolder = DEFAULT_FOLDER,
    head: Annotated[
        Head | None, typer.Option(help="Pooling over time; the artifact's by default.")
    ] = None,
    normalization: Normalization = None,
    seeds: Seeds = 3,
    split_seed: SplitSeed = 0,
    device: Device = "auto",
    threads: Threads = None,
    train_device: TrainDevice = "cpu",
    cache: CacheFolder = None,
) -> None:
    """Evaluate an artifact on tasks.

    Embeds every clip once, trains linear probes on the embeddings, and prints the accuracy in test
    with its standard deviation over the seeds, of each task as soon as it is there. The results,
    predictions included, are written to FOLDER, where `probe report` and `probe compare` find
    them. Embeddings are kept: a run that was stopped goes on where it was.

    \b
    Examples:
      fusion-engine probe run cnn14_3_6.onnx --task synthetic
      fusion-engine probe run cnn14_3_6.onnx -t esc50 -d ESC-50-master
      fusion-engine probe run cnn14_3_6.onnx --csv birds.csv --seconds 3
      fusion-engine probe run cnn14_3_6.onnx --folder birds --seconds 3
      fusion-engine probe run a.onnx -t surge -d surge --split-list surge.csv
    """
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
    probing = Probing(
        device=device,
        train_device=train_device,
        threads=threads,
        seeds=seeds,
        cache=cache,
        normalization=normalization,
        head=head,
    )
    width = max(len(one.title) for one in tasks) + 2
    label = ""
    with Bars() as bars:
        prober = probing.open(artifact, bars.show)
        bars.expect(len(tasks))
        for one in tasks:
            for record in prober.probe(one):
                record.save(output)
                label = record.system.label
                accuracy = percent(record.result.accuracy, record.result.std)
                bars.result(f"{record.title:{width}}{accuracy}", output=True)
    print_message(f"{output}: {counted(len(tasks), 'result')} of {label}")
