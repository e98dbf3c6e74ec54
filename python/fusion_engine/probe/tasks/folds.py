"""Data sets whose table names every clip's fold: ESC-50 and UrbanSound8K."""

from pathlib import Path

from .base import Example, ReadOptions, Task, TaskInfo
from .files import Inventory, read_number, read_table, require


def read_esc50(root: Path, options: ReadOptions) -> Task:
    """ESC-50 as in its repository: the class is ``category``, the folds are the five published.

    Audio that the table does not name is left out, with a note.

    Args:
        root: the repository's folder.
        options: not used, the folds are given.

    Raises:
        DatasetError: the data set is not whole.

    Source: Piczak, "ESC: Dataset for Environmental Sound Classification" (2015), and the README
    of its repository.
    """
    require(ESC50, root, "meta", "audio")
    table = "meta/esc50.csv"
    rows = [
        (f"audio/{name}", fold, label)
        for name, fold, label in read_table(ESC50, root, table, ("filename", "fold", "category"))
    ]
    return _read(ESC50, root, table, rows, ["audio"], folds=5)


def read_urbansound8k(root: Path, options: ReadOptions) -> Task:
    """UrbanSound8K as unpacked: the class is ``class``, the folds are the ten published.

    Audio that the table does not name is left out, with a note.

    Args:
        root: the folder UrbanSound8K.
        options: not used, the folds are given.

    Raises:
        DatasetError: the data set is not whole.

    Source: Salamon, Jacoby and Bello, "A Dataset and Taxonomy for Urban Sound Research" (2014),
    and the README that comes with it.
    """
    folders = [f"audio/fold{fold}" for fold in range(1, 11)]
    require(URBANSOUND8K, root, "metadata", "audio", *folders)
    table = "metadata/UrbanSound8K.csv"
    rows = [
        (f"audio/fold{fold}/{name}", fold, label)
        for name, fold, label in read_table(
            URBANSOUND8K, root, table, ("slice_file_name", "fold", "class")
        )
    ]
    return _read(URBANSOUND8K, root, table, rows, folders, folds=10)


def _read(
    info: TaskInfo,
    root: Path,
    table: str,
    rows: list[tuple[str, str, str]],
    folders: list[str],
    folds: int,
) -> Task:
    """The task of ``rows``: path relative to ``root``, fold, label."""
    examples = []
    for line, (name, fold, label) in enumerate(rows, 2):
        number = read_number(info, root, fold, folds, f"the fold in line {line} of {table}")
        if not label:
            raise info.error(root, f"line {line} of {table} has no class")
        examples.append(Example(path=root / name, label=label, fold=number))
    named = [name for name, _, _ in rows]
    inventory = Inventory(info, root, folders)
    inventory.require(named, table)
    return info.task(examples, inventory.extra(named, table))


ESC50 = TaskInfo(
    name="esc50",
    title="ESC-50",
    classes=50,
    examples=2_000,
    seconds=5.0,
    protocol="five published folds: the mean over leaving each out",
    homepage="https://github.com/karolpiczak/ESC-50",
    size="0.9 GB on disk",
    layout="""\
├── audio/
│   ├── 1-100032-A-0.wav
│   └── … (2 000 files)
└── meta/
    └── esc50.csv               filename,fold,target,category,…""",
    read=read_esc50,
)

URBANSOUND8K = TaskInfo(
    name="urbansound8k",
    title="UrbanSound8K",
    classes=10,
    examples=8_732,
    seconds=4.0,
    protocol="ten published folds: the mean over leaving each out",
    homepage="https://urbansounddataset.weebly.com/urbansound8k.html",
    size="7 GB on disk",
    layout="""\
├── audio/
│   ├── fold1/
│   │   ├── 101415-3-0-2.wav
│   │   └── …
│   ├── …
│   └── fold10/
└── metadata/
    └── UrbanSound8K.csv        slice_file_name,…,fold,classID,class""",
    read=read_urbansound8k,
)
