"""``fusion-engine probe run``."""

from pathlib import Path
from typing import Annotated

import typer

from ...spec import Head
from .._app import phase_bars, print_fields, print_message
from . import probe
from ._options import (
    DEFAULT_FOLDER,
    CacheFolder,
    CsvFiles,
    CsvSeconds,
    DataFolders,
    Device,
    Normalization,
    OutputFolder,
    Probing,
    Seeds,
    SplitSeed,
    TaskNames,
    Threads,
    TrainDevice,
    make_folder,
    percent,
    read_tasks,
)


@probe.command()
def run(
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", help="What export or build wrote.")
    ],
    task: TaskNames = None,
    data: DataFolders = None,
    csv: CsvFiles = None,
    seconds: CsvSeconds = None,
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
    with its standard deviation over the seeds. The results, predictions included, are written to
    FOLDER, where `probe report` and `probe compare` find them. Embeddings are kept: a run that was
    stopped goes on where it was.

    \b
    Examples:
      fusion-engine probe run cnn14_3_6.onnx --task synthetic
      fusion-engine probe run cnn14_3_6.onnx -t esc50 -d ESC-50-master
      fusion-engine probe run cnn14_3_6.onnx --csv birds.csv --seconds 3
    """
    tasks = read_tasks(task, data, csv, seconds, split_seed)
    make_folder(output)
    probing = Probing(
        device=device,
        train_device=train_device,
        threads=threads,
        seeds=seeds,
        cache=cache,
        normalization=normalization,
        head=head,
    )
    records = []
    with phase_bars() as show:
        prober = probing.open(artifact, show)
        for one in tasks:
            for record in prober.probe(one):
                record.save(output)
                records.append(record)
    print_fields(
        (record.title, percent(record.result.accuracy, record.result.std)) for record in records
    )
    print_message(f"{output}: {len(records)} results of {records[0].system.label}")
