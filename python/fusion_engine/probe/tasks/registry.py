"""The tasks by name."""

import os
import types
from collections.abc import Mapping
from pathlib import Path

from ...errors import DatasetError
from .base import ReadOptions, Task, TaskInfo
from .crema_d import CREMA_D
from .folds import ESC50, URBANSOUND8K
from .gtzan import GTZAN
from .nsynth import NSYNTH
from .speech_commands import SPEECH_COMMANDS
from .surge import SURGE
from .synthetic import SYNTHETIC, synthetic_folder
from .voxceleb import VOXCELEB1
from .voxforge import VOXFORGE

# In the order of the paper's Table III.
TASKS: Mapping[str, TaskInfo] = types.MappingProxyType(
    {
        info.name: info
        for info in (
            ESC50,
            URBANSOUND8K,
            SPEECH_COMMANDS,
            VOXCELEB1,
            VOXFORGE,
            CREMA_D,
            GTZAN,
            NSYNTH,
            SURGE,
            *SYNTHETIC,
        )
    }
)


def task_names(name: str) -> tuple[str, ...]:
    """The tasks that ``name`` stands for: ``synthetic`` for all of its four, any other for itself.

    Raises:
        DatasetError: there is no such task.
    """
    if name == "synthetic":
        return tuple(info.name for info in SYNTHETIC)
    if name not in TASKS:
        raise DatasetError(
            f"there is no task {name!r}, expected {', '.join(TASKS)}, synthetic (all of its four), "
            "or a CSV of your own"
        )
    return (name,)


def read_task(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    split_list: str | os.PathLike[str] | None = None,
    exclude_list: str | os.PathLike[str] | None = None,
) -> Task:
    """Read one of ``TASKS``. No audio is decoded.

    Args:
        name: of the task.
        root: the data set's folder, as its distributor's archive unpacks. The synthetic tasks are
            written into it where they are missing, and it defaults to the user's cache.
        seed: of splits that are drawn, and of the synthetic audio.
        split_list: a CSV with the columns ``file_name`` and ``split``, in place of the split that
            would be drawn; for tasks with ``TaskInfo.lists``. A name is a clip's path below
            ``root``, or as much of its end as tells it from others, with its suffix or without.
        exclude_list: a text file that names a clip to leave out in each line, in the same way, in
            place of those that are known to be unusable; for the same tasks.

    Raises:
        DatasetError: an unknown task, no ``root``, or a data set that is missing or half unpacked:
            shows the layout expected, with the first thing that is wrong; a list that cannot be
            read, names a clip that is missing, or is for a task that takes none.
        FusionEngineError: the synthetic audio cannot be written.
    """
    names = task_names(name)
    if len(names) > 1:
        raise DatasetError(f"{name} is {len(names)} tasks, expected one of {', '.join(names)}")
    info = TASKS[name]
    lists = [path for path in (split_list, exclude_list) if path is not None]
    if lists and not info.lists:
        takers = ", ".join(info.name for info in TASKS.values() if info.lists)
        raise DatasetError(
            f"{os.fspath(lists[0])}: {name} has its published split and takes no list, expected "
            f"one of {takers}"
        )
    if root is None:
        if info not in SYNTHETIC:
            raise info.error(Path(f"{name.upper()}_FOLDER"), "no folder was named")
        root = synthetic_folder()
    options = ReadOptions(
        seed=seed,
        split_list=None if split_list is None else Path(split_list),
        exclude_list=None if exclude_list is None else Path(exclude_list),
    )
    return info.read(Path(root), options)
