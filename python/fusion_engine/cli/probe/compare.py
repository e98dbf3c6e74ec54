"""``fusion-engine probe compare``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..._atomic import atomic_path
from ..._words import counted
from .._app import check_writable, output_path, print_fields, print_message
from ._app import probe
from ._bars import Bars
from ._options import (
    CacheFolder,
    ClassFolders,
    CsvFiles,
    DataFolders,
    Device,
    ExcludeLists,
    Normalization,
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
    result_line,
)

if TYPE_CHECKING:
    from ...probe.compare import TaskComparison


@probe.command()
def compare(
    a: Annotated[
        Path, typer.Argument(metavar="A", help="The artifact, or the result, to compare with.")
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="The one that must not be worse.")],
    task: TaskNames = None,
    data: DataFolders = None,
    csv: CsvFiles = None,
    folder: ClassFolders = None,
    seconds: OwnSeconds = None,
    split_list: SplitLists = None,
    exclude_list: ExcludeLists = None,
    margin: Annotated[
        float,
        typer.Option(min=0, max=99, metavar="POINTS", help="The loss of accuracy that is allowed."),
    ] = 1.0,
    confidence: Annotated[
        float,
        typer.Option(min=50, max=99.9, metavar="PERCENT", help="Of the interval."),
    ] = 95.0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.json",
            callback=output_path(".json"),
            help="Also write the comparison to this file.",
        ),
    ] = None,
    normalization: Normalization = None,
    seeds: Seeds = 3,
    split_seed: SplitSeed = 0,
    device: Device = "auto",
    threads: Threads = None,
    train_device: TrainDevice = "cpu",
    cache: CacheFolder = None,
) -> None:
    """Show that B is as accurate as A on a task.

    Both are probed on the same clips, splits and seeds. A paired bootstrap over the test clips
    gives an interval for the difference in accuracy; B passes when all of it is above minus the
    margin. Exit status 1 where B does not pass, because it is worse or because there are too few
    test clips to tell.

    \b
    Examples:
      fusion-engine probe compare cnn14_3_6.onnx cnn14_3_6.plan --task synthetic
      fusion-engine probe compare a.onnx b.plan -t esc50 -d ESC-50 --margin 0.5
      fusion-engine probe compare a.esc50.probe.json b.esc50.probe.json
    """
    from ...probe.compare import compare as compare_records
    from ...probe.records import ProbeRecord

    if output is not None:
        check_writable(output, [a, b])
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
    saved = [path.suffix == ".json" for path in (a, b)]
    if all(saved):
        if asked.given:
            raise typer.BadParameter(
                "--task, --csv and --folder are for artifacts: results have their task"
            )
        pairs = [(ProbeRecord.load(a), ProbeRecord.load(b))]
    elif any(saved):
        raise typer.BadParameter(f"{a} and {b}: give two artifacts or two results")
    else:
        tasks = asked.read()
        probing = Probing(
            device=device,
            train_device=train_device,
            threads=threads,
            seeds=seeds,
            cache=cache,
            normalization=normalization,
        )
        found = []
        with Bars() as bars:
            bars.expect(2 * len(tasks))
            for letter, artifact in (("A", a), ("B", b)):
                prober = probing.open(artifact, bars.show)
                of_one = []
                for each in tasks:
                    for record in prober.probe(each):
                        of_one.append(record)
                        bars.result(f"{letter}: {result_line(record)}")
                found.append(of_one)
        pairs = list(zip(*found, strict=True))
    comparisons = []
    for one, two in pairs:
        comparison = compare_records(one, two, margin=margin / 100, confidence=confidence / 100)
        comparisons.append(comparison)
        typer.echo(one.title)
        print_fields(_fields(comparison, a, b), indent="  ")
    if output is not None:
        with atomic_path(output) as temporary:
            data_out = [json.loads(comparison.to_json()) for comparison in comparisons]
            temporary.write_text(json.dumps(data_out, indent=1) + "\n", encoding="utf-8")
    failed = [one.title for (one, _), c in zip(pairs, comparisons, strict=True) if not c.passed]
    if failed:
        print_message(f"not shown to be as accurate on {', '.join(failed)}")
        raise typer.Exit(1)


def _fields(found: "TaskComparison", a: Path, b: Path) -> list[tuple[str, str]]:
    points = 100 * found.margin
    margin = f"{points:g} {'point' if points == 1 else 'points'}"
    return [
        ("A", f"{percent(found.accuracy_a, found.std_a)}, {a}: {found.a}"),
        ("B", f"{percent(found.accuracy_b, found.std_b)}, {b}: {found.b}"),
        (
            "B − A",
            f"{100 * found.difference:+.2f} points, {100 * found.confidence:g} % interval "
            f"{100 * found.low:+.2f} … {100 * found.high:+.2f} "
            f"({counted(found.clips, 'test clip')})",
        ),
        ("agreement", f"{100 * found.agreement:.1f} % of the predictions are the same"),
        (
            "verdict",
            {
                "not worse": f"B is not worse by more than {margin}",
                "worse": f"B is worse by more than {margin}",
                "unclear": f"unclear: the interval contains a loss of {margin}; "
                "take more test clips, or allow a larger margin",
            }[found.verdict],
        ),
    ]
