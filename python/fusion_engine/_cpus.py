"""How many CPUs this process may use: its affinity, and its container's quota."""

import math
import os
import re
from pathlib import Path, PurePosixPath

_PROC = Path("/proc/self")


def usable_cpus() -> int:
    """CPUs that this process may keep busy, at least 1.

    The smaller of its affinity and, on Linux, the CPU quota of its control group and of every
    group above it (``cpu.max``, or ``cpu.cfs_quota_us`` in version 1), rounded up.
    """
    affinity = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, _quota(_PROC))))


def _quota(proc: Path) -> float:
    """The tightest quota in CPUs; infinite without one."""
    try:
        groups = (proc / "cgroup").read_text()
        mounts = (proc / "mountinfo").read_text()
    except (OSError, UnicodeDecodeError):
        return math.inf
    quota = math.inf
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        unified = number == "0" and not controllers
        if unified or "cpu" in controllers.split(","):
            for folder in _folders(mounts, unified, group):
                quota = min(quota, _limit(folder))
    return quota


def _folders(mounts: str, unified: bool, group: str) -> list[Path]:
    """Folders of the group and of those above it, as far as they are mounted."""
    folders: list[Path] = []
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        mount, kind = fields.split(), rest.split()
        if len(mount) < 5 or len(kind) < 3:
            continue
        if unified:
            fits = kind[0] == "cgroup2"
        else:
            fits = kind[0] == "cgroup" and "cpu" in kind[2].split(",")
        if not fits:
            continue
        root, point = PurePosixPath(_plain(mount[3])), Path(_plain(mount[4]))
        # A container often sees its own group as the root of what is mounted.
        inside = PurePosixPath(group)
        below = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
        if ".." in below.parts:
            below = PurePosixPath()
        folders += [point / below, *(point / parent for parent in below.parents)]
    return folders


def _limit(folder: Path) -> float:
    """The quota of one group in CPUs; infinite without one."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        microseconds, per = int(quota), int(period)  # "max" is no number
    except (OSError, ValueError):
        return math.inf
    return microseconds / per if microseconds > 0 and per > 0 else math.inf


def _plain(text: str) -> str:
    """A path as mountinfo writes it, with its octal escapes resolved."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text)
