"""Jobs that are killed, run out of disk, and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pyarrow.parquet as pq
import pytest

from . import fake

KILLS = 50
FILES = 36


@pytest.fixture(scope="module")
def zygote():
    command = [sys.executable, "-m", "tests.job.zygote"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.stdin.close()


class Runs:
    """Runs of one job after the other."""

    def __init__(self, zygote, folder):
        self.zygote, self.folder = zygote, folder
        (folder / "in").mkdir(parents=True)
        self.paths = fake.make_files(folder / "in", FILES)
        self.output = folder / "out.parquet"
        self.parts = folder / "out.parquet.parts"

    def __call__(self, *, after=None, **order):
        """Exit status, and the rows that were computed."""
        log = self.folder / "log.txt"
        log.unlink(missing_ok=True)
        order |= {"output": str(self.output), "log": str(log), "paths": list(map(str, self.paths))}
        self.zygote.stdin.write(json.dumps(order) + "\n")
        self.zygote.stdin.flush()
        pid = int(self.zygote.stdout.readline())
        if after is not None:
            time.sleep(after)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        status = int(self.zygote.stdout.readline())
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        rows = [(path, int(number)) for path, number in (line.split("\t") for line in lines)]
        assert len(rows) == len(set(rows))
        return status, set(rows)

    def names(self):
        return sorted(path.name for path in self.folder.iterdir())


def rows_of(output):
    table = pq.read_table(output)
    columns = ("path", "start", "duration", "partial", "embedding")
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


@pytest.fixture
def runs(zygote, tmp_path):
    return Runs(zygote, tmp_path / "job")


def test_a_job_that_nobody_disturbs(runs):
    status, rows = runs()
    assert status == 0
    assert rows == {(str(path), n) for path in runs.paths for n in range(fake.size(path))}
    assert rows_of(runs.output) == fake.table(runs.paths)
    errors = runs.folder / "out.parquet.errors.jsonl"
    failed = [json.loads(line)["path"] for line in errors.read_text().splitlines()]
    assert sorted(failed) == sorted(str(path) for path in runs.paths if fake.fails(path))
    assert runs.names() == ["in", "out.parquet", "out.parquet.errors.jsonl"]


@pytest.mark.heavy
def test_killed_at_any_moment(runs):
    assert runs()[0] == 0
    whole, errors = runs.output.read_bytes(), set(read_lines(runs))
    rng = np.random.default_rng(0)
    kills = 0
    runs.output.unlink()
    kept = set()
    while kills < KILLS:
        if rng.random() < 0.7:
            status, rows = runs(moment=int(rng.integers(1, 250)))
        else:
            status, rows = runs(after=rng.uniform(0, 0.15))
        # Nothing that was on disk is computed again.
        assert not rows & kept
        if status == 0 or runs.output.exists():
            assert runs.output.read_bytes() == whole
        if status == 0:
            assert set(read_lines(runs)) == errors
            assert runs.names() == ["in", "out.parquet", "out.parquet.errors.jsonl"]
        else:
            assert status == -signal.SIGKILL
            kills += 1
        if runs.output.exists():
            # The next run ends what a killed one began, or begins a new one.
            assert runs()[0] == 0
            assert runs.output.read_bytes() == whole
            assert runs.names() == ["in", "out.parquet", "out.parquet.errors.jsonl"]
            runs.output.unlink()
        kept = fake.replay(runs.parts)[0] if runs.parts.exists() else set()
    assert runs()[0] == 0
    assert runs.output.read_bytes() == whole


def read_lines(runs):
    return (runs.folder / "out.parquet.errors.jsonl").read_text().splitlines()


@pytest.mark.parametrize("limit", [0, 5, 3_000, 20_000])
def test_a_full_disk(runs, limit):
    """The limit on file sizes ends a write as a full disk does."""
    status, rows = runs(limit=limit, held_bytes=3_000)
    assert status == 1
    message = (runs.folder / "log.error").read_text()
    assert "File too large; free some space, or choose a folder on another disk" in message
    (runs.folder / "log.error").unlink()
    kept = fake.replay(runs.parts)[0] if runs.parts.exists() else set()
    assert bool(kept) == (limit == 20_000)
    assert not list(runs.folder.rglob(".fusion_engine-*"))
    status, rows = runs()
    assert status == 0
    assert not rows & kept
    assert rows_of(runs.output) == fake.table(runs.paths)
    assert runs.names() == ["in", "out.parquet", "out.parquet.errors.jsonl"]
