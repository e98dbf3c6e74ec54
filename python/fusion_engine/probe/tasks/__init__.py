"""The probe's tasks: data sets in their distributors' folder layouts, your own, a synthetic one."""

from .base import SPLITS, Example, Split, Task, TaskInfo

__all__ = ["SPLITS", "Example", "Split", "Task", "TaskInfo"]
