"""What a result was measured on. No host name and no path is part of it."""

import importlib.metadata
import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from fusion_engine._instructions import instruction_sets

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = (
    "fusion-engine",
    "numpy",
    "onnxruntime",
    "openvino",
    "torch",
    "torchlibrosa",
    "panns-inference",
    "soundfile",
    "soxr",
    "ray",
    "pyarrow",
    "usearch",
)

GPU_LIBRARIES = (
    "cuda-bindings",
    "cuda-core",
    "onnxruntime-gpu",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "transformers",
    "triton",
)
# What `nvidia-smi` is asked for, and the key in the results.
_GPU_QUERIES = {
    "name": "name",
    "driver_version": "driver",
    "memory.total": "memory",
    "clocks.sm": "sm_clock",
    "clocks.max.sm": "sm_clock_max",
    "clocks.mem": "memory_clock",
    "power.limit": "power_limit",
    "temperature.gpu": "temperature_celsius",
}


def usable_cores() -> int:
    """Cores this process may use; affinity counts, as in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_host(threads: int) -> dict[str, Any]:
    """The machine and the software, for a run with ``threads`` threads per contender."""
    return {
        "cpu": _cpu_model(),
        "instructions": list(instruction_sets()),
        "cores": usable_cores(),
        "threads": threads,
        "memory_gib": _memory_gib(),
        "os": _os_name(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "commit": _commit(),
    }


def describe_gpu() -> dict[str, Any]:
    """The first GPU, its clocks as read now, CUDA, and the libraries of both suites."""
    import torch

    found = {
        "compute_capability": "{}.{}".format(*torch.cuda.get_device_capability()),
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    libraries = {name: _version(name) for name in (*LIBRARIES, *GPU_LIBRARIES)}
    return {
        "gpu": {"name": torch.cuda.get_device_name(), **found, **_smi()},
        "libraries": libraries,
    }


def _smi() -> dict[str, str]:
    """What the driver's own tool says of the first GPU; nothing where it is not there."""
    command = ["nvidia-smi", "--id=0", "--format=csv,noheader"]
    command.append(f"--query-gpu={','.join(_GPU_QUERIES)}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    values = (value.strip() for value in done.stdout.splitlines()[0].split(","))
    return dict(zip(_GPU_QUERIES.values(), values, strict=True))


def cpu_seconds_of_others() -> float | None:
    """CPU time used so far by all but this process and its finished children; Linux only."""
    try:
        ticks = [
            int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        ]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = ticks[:8]
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - sum(os.times()[:4])


def family() -> list[str]:
    """This process and its children that are there now, as names in /proc; Linux only."""
    found = ["self"]
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has ended meanwhile
            found += (task / "children").read_text().split()
    return found


def cpu_seconds() -> float:
    """CPU time used so far by this process and its children, those that have ended included."""
    running = 0.0
    for child in family()[1:]:
        # After the name, which may hold anything: the 12th and 13th of these fields.
        fields = Path("/proc", child, "stat").read_text().rpartition(")")[2].split()
        running += sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return running + sum(os.times()[:4])


def peak_gib() -> float:
    """The most memory that this process has held, and its children that are there now; a sum."""
    # Not getrusage: there a child begins with the peak of its parent.
    return sum(_peak_kib(process) for process in family()) / 2**20


def _peak_kib(process: str) -> int:
    for line in Path("/proc", process, "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise OSError(f"/proc/{process}/status has no line VmHWM")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return round(size / 2**30, 1)


def _os_name() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        name = f"{platform.system()} {platform.release()}"
    return f"{name}, {platform.machine()}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit checked out, with ``-dirty`` where tracked files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
