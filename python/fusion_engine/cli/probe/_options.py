"""What the commands of ``fusion-engine probe`` share."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..._words import counted
from .._app import print_message

if TYPE_CHECKING:
    from ...probe.prober import Prober, Show
    from ...probe.records import ProbeRecord
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
        "valid, test), fold, or neither; may be repeated.",
    ),
]
ClassFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--folder",
        metavar="FOLDER",
        help="A task of your own: a folder with a folder of audio for each class; may be repeated.",
    ),
]
OwnSeconds = Annotated[
    float | None,
    typer.Option(
        "--seconds",
        metavar="S",
        help="Clip length of --csv and --folder tasks; by default as the files are.",
    ),
]
SplitLists = Annotated[
    list[str] | None,
    typer.Option(
        "--split-list",
        metavar="[NAME=]FILE",
        help="A CSV with file_name and split in place of the split that is drawn, for voxforge, "
        "crema_d, gtzan or surge; may be repeated.",
    ),
]
ExcludeLists = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude-list",
        metavar="[NAME=]FILE",
        help="The clips to leave out, one a line, in place of those known to be unusable, for the "
        "same tasks; may be repeated.",
    ),
]
SplitSeed = Annotated[
    int,
    typer.Option(
        min=0, metavar="N", help="Seed of the splits that are drawn, and of synthetic audio."
    ),
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


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """The options that say what to probe on; as the commands have them."""

    names: list[str] | None
    data: list[Path] | None
    csvs: list[Path] | None
    folders: list[Path] | None
    seconds: float | None
    split_lists: list[str] | None
    exclude_lists: list[str] | None
    split_seed: int

    @property
    def given(self) -> bool:
        """Whether any task is named."""
        return bool(self.names or self.csvs or self.folders)

    def read(self) -> "list[Task]":
        """The tasks asked for; what must be known of them is said on stderr.

        Raises:
            BadParameter: no task, two of one name, options that do not fit them, or not as many
                folders as tasks that need one.
            DatasetError: an unknown task, or one whose data are not as expected.
        """
        from ...probe.protocol import check_trainable
        from ...probe.tasks import read_csv, read_folders, read_task, task_names

        names = self.names or []
        self._check(names)
        parts = [part for name in names for part in task_names(name)]
        splits = _by_task("--split-list", self.split_lists, parts)
        excluded = _by_task("--exclude-list", self.exclude_lists, parts)
        tasks = [
            read_task(
                part,
                root,
                seed=self.split_seed,
                split_list=splits.get(part),
                exclude_list=excluded.get(part),
            )
            for name, root in zip(names, self._roots(names), strict=True)
            for part in task_names(name)
        ]
        seconds, seed = self.seconds, self.split_seed
        tasks += [read_csv(path, seconds=seconds, seed=seed) for path in self.csvs or []]
        tasks += [read_folders(path, seconds=seconds, seed=seed) for path in self.folders or []]
        twice = [name for name, count in Counter(task.name for task in tasks).items() if count > 1]
        if twice:
            raise typer.BadParameter(
                f"two tasks are named {twice[0]}, and their results would be one file: give each "
                "task once, and each CSV and folder a name of its own"
            )
        for task in tasks:
            check_trainable(task)
            for note in task.notes:
                print_message(f"{task.title}: {note}")
        return tasks

    def _check(self, names: list[str]) -> None:
        """Refuse options by themselves, before any data are looked at."""
        if not self.given:
            raise typer.BadParameter(
                "give a task: --task NAME, --task synthetic, --csv FILE or --folder FOLDER"
            )
        if self.seconds is not None:
            if not 0 < self.seconds < float("inf"):
                raise typer.BadParameter(
                    f"{self.seconds:g}, expected a length above 0", param_hint="'--seconds'"
                )
            if not self.csvs and not self.folders:
                raise typer.BadParameter(
                    "is for --csv and --folder: the other tasks have their own length",
                    param_hint="'--seconds'",
                )
        if len(set(names)) < len(names):
            raise typer.BadParameter(f"--task {', '.join(names)}: give each once")

    def _roots(self, names: list[str]) -> list[Path | None]:
        """The folder of each task's data; for the synthetic ones it may be none."""
        folders = list(self.data or [])
        generated = [name for name in names if name.startswith("synthetic")]
        # A folder is for the data sets; with none, it is where synthetic audio is written.
        takers = [name for name in names if name not in generated] or generated[:1]
        if len(folders) > len(takers) or (takers != generated[:1] and len(folders) < len(takers)):
            raise typer.BadParameter(
                f"--data {counted(len(folders), 'time')} for {', '.join(takers) or 'no task'}: "
                "give one for each task that needs a folder, in the same order"
            )
        synthetic = folders.pop() if folders and takers == generated[:1] else None
        return [synthetic if name in generated else folders.pop(0) for name in names]


def _by_task(option: str, values: list[str] | None, tasks: list[str]) -> dict[str, Path]:
    """The list for each task, by its name or because it is the only one that takes one.

    Raises:
        BadParameter: a list for none of ``tasks``, for several, or two for one.
    """
    from ...probe.tasks import TASKS

    takers = [name for name in tasks if TASKS[name].lists]
    every = ", ".join(name for name, info in TASKS.items() if info.lists)
    found: dict[str, Path] = {}
    for value in values or []:
        name, equals, path = value.partition("=")
        if not equals or name not in TASKS:
            if len(takers) != 1:
                what = f"is it for {' or '.join(takers)}?" if takers else f"no --task is {every}"
                raise typer.BadParameter(
                    f"{value}: {what}; expected NAME=FILE", param_hint=f"'{option}'"
                )
            name, path = takers[0], value
        if name not in takers:
            raise typer.BadParameter(
                f"{value}: expected a list for a --task that is {every}", param_hint=f"'{option}'"
            )
        if name in found:
            raise typer.BadParameter(f"two lists for {name}", param_hint=f"'{option}'")
        found[name] = Path(path)
    return found


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
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="'--train-device'") from None
        try:
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


def result_line(record: "ProbeRecord") -> str:
    """``ESC-50, cnn14-fusion: 82.3 ± 0.4 %``."""
    accuracy = percent(record.result.accuracy, record.result.std)
    return f"{record.title}, {record.system.label}: {accuracy}"


def percent(accuracy: float, std: float) -> str:
    """``82.3 ± 0.4 %``."""
    return f"{100 * accuracy:.1f} ± {100 * std:.1f} %"
