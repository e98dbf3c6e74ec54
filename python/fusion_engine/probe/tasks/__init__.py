"""The probe's tasks: data sets in their distributors' folder layouts, your own, synthetic ones.

>>> from fusion_engine.probe.tasks import read_task
>>> task = read_task("esc50", "/data/ESC-50")
>>> len(task.classes), task.folds
(50, (1, 2, 3, 4, 5))
"""

from .base import SPLITS, Example, Split, Task, TaskInfo
from .own import read_csv, read_folders
from .registry import TASKS, read_task, task_names

__all__ = [
    "SPLITS",
    "TASKS",
    "Example",
    "Split",
    "Task",
    "TaskInfo",
    "read_csv",
    "read_folders",
    "read_task",
    "task_names",
]
