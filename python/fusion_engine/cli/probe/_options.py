"""What the commands of ``fusion-engine probe`` share."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..._atomic import write_error
from .._app import print_message

if TYPE_CHECKING:
    from ...probe.prober import Prober, Show
    from ...probe.tasks import Task
    from ...spec import Head

DEFAULT_FOLDER = Path("probe-results")

Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        metavar="pretrained|random:SEED|PATH",
        help="For --model, as for `fusion-engine export`.",
    ),
]
TaskNames = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        "-t",
        metavar="NAME",
        help="A task that `fusion-engine probe tasks` lists; may be repeated. synthetic is four "
        "that need no data.",
    ),
]
DataFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        "-d",
        metavar="ROOT",
        help="The data set's folder as its distributor's archive unpacks, one for each --task "
        "that needs one, in the same order.",
    ),
]
CsvFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--csv",
        metavar="FILE",
        help="A task of your own: a CSV with file_name (relative to it), label, and split (train, "
        "valid, test) or fold; may be repeated.",
    ),
]
CsvSeconds = Annotated[
    float | None,
    typer.Option(
        "--seconds", metavar="S", help="Clip length of --csv tasks; by default as the files are."
    ),
]
SplitSeed = Annotated[
    int,
    typer.Option(metavar="N", help="Seed of the splits that are drawn, and of synthetic audio."),
]
OutputFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write the results.")
]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache", metavar="FOLDER", help="Where embeddings are kept; the user's cache by default."
    ),
]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="Where to embed: auto, cpu, cuda or cuda:N.")
]
TrainDevice = Annotated[
    str, typer.Option(metavar="NAME", help="Where to train the probes: cpu, cuda or cuda:N.")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="CPU threads to embed with; every core by default."),
]
Seeds = Annotated[
    int, typer.Option(min=1, metavar="N", help="How many probes to average; 3 in the paper.")
]
Normalization = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="MEAN STD", help="AST: of the task's log-mel; the artifact's by default."),
]


def read_tasks(
    names: list[str] | None,
    data: list[Path] | None,
    csvs: list[Path] | None,
    seconds: float | None,
    split_seed: int,
) -> "list[Task]":
    """The tasks asked for; what must be known of them is said on stderr.

    Raises:
        BadParameter: no task, two of one name, or not as many folders as tasks that need one.
        DatasetError: an unknown task, or one whose data are not as expected.
    """
    from ...probe.protocol import check_trainable
    from ...probe.tasks import read_csv, read_task, task_names

    names, folders = names or [], list(data or [])
    if not names and not csvs:
        raise typer.BadParameter("give a task: --task NAME, --task synthetic or --csv FILE")
    if seconds is not None and not csvs:
        raise typer.BadParameter("--seconds is for --csv: the other tasks have their own length")
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"--task {', '.join(names)}: give each once")
    generated = [name for name in names if name.startswith("synthetic")]
    # A folder is for the data sets; with none, it is where synthetic audio is written.
    takers = [name for name in names if name not in generated] or generated[:1]
    if len(folders) > len(takers) or (takers != generated[:1] and len(folders) < len(takers)):
        raise typer.BadParameter(
            f"--data {len(folders)} times for {', '.join(takers) or 'no task'}: give one for each "
            "task that needs a folder, in the same order"
        )
    synthetic = folders.pop() if folders and takers == generated[:1] else None
    tasks = []
    for name in names:
        root = synthetic if name in generated else folders.pop(0)
        tasks += [read_task(part, root, seed=split_seed) for part in task_names(name)]
    tasks += [read_csv(path, seconds=seconds) for path in csvs or []]
    twice = [name for name, count in Counter(task.name for task in tasks).items() if count > 1]
    if twice:
        raise typer.BadParameter(
            f"two tasks are named {twice[0]}, and their results would be one file: give each task "
            "once, and each CSV a name of its own"
        )
    for task in tasks:
        check_trainable(task)
        for note in task.notes:
            print_message(f"{task.title}: {note}")
    return tasks


@dataclass(frozen=True, kw_only=True)
class Probing:
    """How artifacts are probed, as the options say."""

    device: str
    train_device: str
    threads: int | None
    seeds: int
    cache: Path | None
    normalization: tuple[float, float] | None = None
    head: "Head | None" = None

    def open(self, artifact: Path, show: "Show") -> "Prober":
        """Open an artifact.

        Raises:
            BadParameter: options that do not fit it.
            ArtifactError, BackendError: as ``Engine``.
        """
        from ...probe.linear import check_device
        from ...probe.prober import Prober

        try:
            check_device(self.train_device)  # before the long work
            prober = Prober.open(
                artifact,
                cache=self.cache,
                device=self.device,
                threads=self.threads,
                normalization=self.normalization,
                head=self.head,
                seeds=range(self.seeds),
                train_device=self.train_device,
                show=show,
            )
            prober.engine.embed([], head=self.head)  # no clips: refuses a head that does not fit
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        return prober


def make_folder(path: Path) -> Path:
    """``path``, which exists now.

    Raises:
        FusionEngineError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def percent(accuracy: float, std: float) -> str:
    """``82.3 ± 0.4 %``."""
    return f"{100 * accuracy:.1f} ± {100 * std:.1f} %"
