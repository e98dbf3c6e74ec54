"""Any sequence of calls and ends of the process, against a model of a few lines."""

import copy
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion_engine.job import open_job
from fusion_engine.journal import journal
from fusion_engine.output import Row

from . import fake

FILES = 3
file = st.integers(0, FILES - 1)
calls = st.one_of(
    st.tuples(st.sampled_from(["is_done", "rows_done", "finish", "fail", "change"]), file),
    st.tuples(st.just("add"), file, st.integers(1, 5)),
    st.tuples(st.sampled_from(["flush", "kill", "close"])),
)


@dataclass
class File:
    """What is there of a file: the version that was read, its rows, and whether that is all."""

    version: int
    rows: int = 0
    finished: bool = False


@dataclass
class Model:
    held: dict = field(default_factory=dict)  # by the time that all is on disk
    disk: dict = field(default_factory=dict)
    versions: dict = field(default_factory=lambda: dict.fromkeys(range(FILES), 0))
    asked: dict = field(default_factory=dict)  # the version of a file that is being read
    next: dict = field(default_factory=dict)  # its next row
    ended: set = field(default_factory=set)

    def flush(self):
        self.disk = copy.deepcopy(self.held)
        self.ended.clear()

    def kill(self):
        self.held = copy.deepcopy(self.disk)
        self.asked, self.next, self.ended = {}, {}, set()

    def change(self, number):
        self.versions[number] += 1

    def _unchanged(self, number):
        if number in self.ended:
            self.flush()
        there = self.disk.get(number)
        return there if there and there.version == self.versions[number] else None

    def _ask(self, number):
        return self.asked.setdefault(number, self.versions[number])

    def is_done(self, number):
        there = self._unchanged(number)
        done = there is not None and there.finished
        if not done:
            self._ask(number)
        return done

    def rows_done(self, number):
        there = self._unchanged(number)
        rows = there.rows if there is not None and not there.finished else 0
        self._ask(number)
        self.next.setdefault(number, rows)
        return rows

    def add(self, number, rows):
        """The version and the first number of the rows."""
        version, first = self._ask(number), self.next.setdefault(number, 0)
        if first == 0:
            self.held[number] = File(version)
        self.held[number].rows += rows
        self.next[number] += rows
        return version, first

    def finish(self, number):
        version = self._ask(number)
        if self.next.get(number, 0) == 0:
            self.held[number] = File(version)
        self.held[number].finished = True
        self._end(number)

    def fail(self, number):
        self.held.pop(number, None)
        self._end(number)

    def _end(self, number):
        self.ended.add(number)
        self.asked.pop(number, None)
        self.next.pop(number, None)

    def table(self, order):
        return [
            (number, row, self.held[number].version)
            for number in order
            if number in self.held and self.held[number].finished
            for row in range(self.held[number].rows)
        ]


class Subject:
    """The job, in a folder that is copied when the process is killed: an image of the disk."""

    def __init__(self, folder):
        self.folder, self.lives = folder, 0
        (folder / "in").mkdir()
        self.paths = fake.make_files(folder / "in", FILES)
        self.stack = ExitStack()
        self.open(folder / "0")

    def open(self, place):
        place.mkdir(exist_ok=True)
        self.place = place
        self.job = self.stack.enter_context(
            open_job(place / "out.parquet", fake.SPEC, fake.SETTINGS)
        )

    def kill(self):
        self.lives += 1
        image = self.folder / str(self.lives)
        shutil.copytree(self.place, image)
        self.stack.close()
        self.open(image)

    def close(self):
        self.stack.close()
        self.open(self.place)

    def change(self, number, version):
        os.utime(self.paths[number], ns=(0, version))

    def add(self, number, rows, version, first):
        path = str(self.paths[number])
        clips = [
            Row(path=path, start=n, end=n + 1, duration=0.0) for n in range(first, first + rows)
        ]
        vectors = np.zeros((rows, fake.DIM), np.float32)
        vectors[:, 0] = version
        self.job.add(path, clips, vectors)

    def table(self, order):
        completed = self.job.complete([self.paths[number] for number in order])
        self.stack.close()
        output = self.place / "out.parquet"
        assert output.exists() == (completed.rows > 0)
        if not completed.rows:
            return []
        table = pq.read_table(output)
        columns = [table[name].to_pylist() for name in ("path", "start", "duration", "embedding")]
        numbers = {str(path): number for number, path in enumerate(self.paths)}
        found = []
        for path, start, duration, vector in zip(*columns, strict=True):
            assert duration == numbers[path] + 1.5
            found.append((numbers[path], start, vector[0]))
        return found


# On a busy machine the first draw and a copied folder take their time.
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(calls, max_size=25), st.permutations(range(FILES)))
def test_any_sequence(tmp_path_factory, sequence, order):
    with (
        mock.patch.object(journal, "_FLUSH_SECONDS", 1e6),
        mock.patch("os.fsync"),
    ):
        subject, model = Subject(tmp_path_factory.mktemp("job")), Model()
        for number in range(FILES):
            subject.change(number, 0)
        for name, *args in sequence:
            play(subject, model, name, args)
        assert subject.table(order) == model.table(order)


def play(subject, model, name, args):
    match name:
        case "is_done" | "rows_done":
            found = getattr(subject.job, name)(subject.paths[args[0]])
            assert found == getattr(model, name)(*args)
        case "add":
            subject.add(*args, *model.add(*args))
        case "finish":
            model.finish(*args)
            subject.job.finish(subject.paths[args[0]], duration=args[0] + 1.5, partial=False)
        case "fail":
            model.fail(*args)
            subject.job.fail(subject.paths[args[0]], "bad")
        case "change":
            model.change(*args)
            subject.change(*args, model.versions[args[0]])
        case "flush":
            model.flush()
            subject.job.flush()
        case "kill":
            model.kill()
            subject.kill()
        case "close":
            model.flush()
            model.kill()
            subject.close()
