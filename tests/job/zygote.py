"""Runs synthetic jobs in processes that may be killed; forked, for the imports take a second.

A line of JSON in: what to run. Two lines out: the process, and how it ended.
"""

import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path

import pyarrow.parquet  # noqa: F401 (before the forks)

from fusion_engine import FusionEngineError
from fusion_engine.job import open_job
from fusion_engine.journal import journal

from . import fake

FLUSH_SECONDS = 0.01


def kill_at(moment):
    """Kill this process at its ``moment``-th file operation or row."""
    left = moment
    lock = threading.RLock()  # killing is an operation too

    def hook(event, _):
        nonlocal left
        if not event.startswith(("open", "os.", "shutil.", "fcntl.", "row")):
            return
        with lock:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def run(order):
    paths = [Path(path) for path in order["paths"]]
    log = os.open(order["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def computed(path, number):
        sys.audit("row")
        if "limit" not in order:
            os.write(log, f"{path}\t{number}\n".encode())

    journal._FLUSH_SECONDS = FLUSH_SECONDS
    journal._HELD_BYTES = order.get("held_bytes", journal._HELD_BYTES)
    if "limit" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], resource.RLIM_INFINITY))
    if "moment" in order:
        kill_at(order["moment"])
    with open_job(order["output"], fake.SPEC, fake.SETTINGS, command="embed") as job:
        fake.run(job, paths, computed=computed)
        job.complete(paths)


def child(order):
    try:
        run(order)
    except FusionEngineError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        Path(order["log"]).with_suffix(".error").write_text(str(error))
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            child(json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
