"""Seeded cases in a process of their own, so that one that crashes or hangs is counted."""

import argparse
import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

# Seconds without an answer that count as a hang; a process that starts gets more.
LIMIT, START = 5.0, 120.0

# What a case came to, from its number and a folder. An outcome that begins with "!" is a fault.
Case = Callable[[int, int, Path], str]


def run(case: Case, *, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Cases 0 to ``count``: how often each outcome was seen, and the faults by number."""
    outcomes, faults = Counter[str](), list[str]()
    context = multiprocessing.get_context("spawn")
    index = 0
    with tempfile.TemporaryDirectory() as folder:
        while index < count:
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(case, index, count, seed, folder, theirs))
            worker.start()
            theirs.close()
            limit = START
            while index < count:
                if not ours.poll(limit):
                    worker.kill()
                    outcome = "! hang"
                else:
                    try:
                        outcome = ours.recv()
                    except EOFError:
                        outcome = ""
                if not outcome:
                    worker.join()
                    outcome = f"! crash ({worker.exitcode})"
                if not outcome.startswith("ready"):
                    outcomes[outcome.partition(":")[0]] += 1
                    if outcome.startswith("!"):
                        faults.append(f"case {index}: {outcome}")
                    index += 1
                if outcome.startswith(("! hang", "! crash")):
                    break
                limit = LIMIT
            worker.join()
    return outcomes, faults


def _work(case: Case, first: int, count: int, seed: int, folder: str, results: Connection) -> None:
    _poison()
    case(seed, -1, Path(folder))  # imports and what all cases share
    results.send("ready")
    for index in range(first, count):
        results.send(case(seed, index, Path(folder)))
    results.close()


def _poison() -> None:
    """Let memory that nobody writes be seen as what is not finite."""
    empty = np.empty

    def poisoned(shape, dtype=float, *args, **options):
        made = empty(shape, dtype, *args, **options)
        if made.dtype.kind == "f":
            made.fill(np.nan)
        return made

    np.empty = poisoned


def main(case: Case, description: str) -> None:
    """``python -m tests.fuzz.…``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    outcomes, faults = run(case, count=args.count, seed=args.seed)
    for outcome, times in sorted(outcomes.items()):
        print(f"{times:8} {outcome}")
    print(*faults, sep="\n")
    raise SystemExit(bool(faults))
