"""The tasks by name."""

import os
import types
from collections.abc import Mapping
from pathlib import Path

from ...errors import DatasetError
from .base import Task, TaskInfo
from .crema_d import CREMA_D
from .folds import ESC50, URBANSOUND8K
from .gtzan import GTZAN
from .nsynth import NSYNTH
from .speech_commands import SPEECH_COMMANDS
from .surge import SURGE
from .synthetic import SYNTHETIC, cache_folder
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


def read_task(name: str, root: str | os.PathLike[str] | None = None, *, seed: int = 0) -> Task:
    """Read one of ``TASKS``. No audio is decoded.

    Args:
        name: of the task.
        root: the data set's folder, as its distributor's archive unpacks. The synthetic tasks are
            written into it where they are missing, and it defaults to the user's cache.
        seed: of splits that are drawn, and of the synthetic audio.

    Raises:
        DatasetError: an unknown task, no ``root``, or a data set that is missing or half unpacked:
            shows the layout expected, with the first thing that is wrong.
        FusionEngineError: the synthetic audio cannot be written.
    """
    names = task_names(name)
    if len(names) > 1:
        raise DatasetError(f"{name} is {len(names)} tasks, expected one of {', '.join(names)}")
    info = TASKS[name]
    if root is None:
        if info not in SYNTHETIC:
            raise info.error(Path(f"{name.upper()}_FOLDER"), "no folder was named")
        root = cache_folder()
    return info.read(Path(root), seed)
