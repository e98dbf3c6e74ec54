"""A small synthetic job: rows that follow from a file's name and a number, and no model."""

import hashlib
import json
from pathlib import Path

import numpy as np

from fusion_engine.frontend import FRONTENDS
from fusion_engine.job import Job
from fusion_engine.output import Row
from fusion_engine.spec import LayerSpec, Spec, WeightsSource

DIM = 16
SPEC = Spec(
    model="cnn14_16k",
    layers=(LayerSpec(number=1, kind="map", channels=2, freq=8, time_pool=16),),
    embedding_dim=DIM,
    frontend=FRONTENDS["panns_16k"],
    frames_per_step=32,
    min_frames=32,
    max_frames=6001,
    weights=WeightsSource(source="random:0", sha256="0" * 64),
)
SETTINGS = {"artifact": "a" * 64, "window": 5.0, "hop": 2.5, "head": None}


def embedding(path, number, dim=DIM):
    digest = hashlib.sha256(f"{path}:{number}".encode()).digest()
    return np.random.default_rng(list(digest)).standard_normal(dim).astype(np.float32)


def row(path, number):
    """Row ``number`` of a file as it is added: its duration is not known yet."""
    return Row(path=str(path), start=number, end=number + 1.0, duration=0.0, silent=number % 3 == 1)


def size(path):
    """How many rows a file has: most have a few, some many, and some none."""
    return [1, 2, 40, 0, 3, 7][int(Path(path).stem) % 6]


def fails(path):
    """Whether a file turns out to be bad when its rows are there."""
    return int(Path(path).stem) % 5 == 4


def duration(path):
    return size(path) + 0.5


def partial(path):
    return int(Path(path).stem) % 7 == 0


def add(job, path, first, last):
    if first < last:
        vectors = np.stack([embedding(path, number) for number in range(first, last)])
        job.add(path, [row(path, number) for number in range(first, last)], vectors)


def finish(job, path):
    job.finish(path, duration=duration(path), partial=partial(path))


def run(job: Job, paths, *, computed=lambda path, number: None, together=3):
    """All of a job but its end; files are read some at a time, their rows interleaved."""
    todo = [path for path in paths if not job.is_done(path)]
    for begin in range(0, len(todo), together):
        turns = {path: job.rows_done(path) for path in todo[begin : begin + together]}
        while turns:
            for path, done in list(turns.items()):
                more = min(done + 4, size(path))
                for number in range(done, more):
                    computed(path, number)
                add(job, path, done, more)
                turns[path] = more
                if more == size(path):
                    del turns[path]
                    if fails(path):
                        job.fail(path, f"{path}: bad")
                    else:
                        finish(job, path)


def table(paths):
    """The rows that the output of ``paths`` has, as plain values."""
    return [
        (str(path), float(number), duration(path), partial(path), embedding(path, number).tolist())
        for path in paths
        if not fails(path)
        for number in range(size(path))
    ]


def make_files(folder, count):
    paths = []
    for number in range(count):
        paths.append(folder / f"{number}.wav")
        paths[-1].write_bytes(b"x" * number)
    return paths


def replay(parts: Path):
    """The rows on disk, by number, and the complete files: read from the parts by itself."""
    import pyarrow.parquet as pq

    rows, versions, complete = {}, {}, set()
    for part in sorted(parts.glob("part-*.parquet")):
        metadata = pq.read_metadata(part)
        checksum, text = metadata.metadata[b"fusion_engine_part"].split(b"\n")
        assert checksum.decode() == hashlib.sha256(text).hexdigest()
        for event in json.loads(text):
            path, kind, version = event["key"], event["event"], event.get("version")
            if kind == "failed" or (kind == "added" and event["first"] == 0):
                rows[path], versions[path] = 0, version
                complete.discard(path)
            if kind == "added" and (versions[path], rows[path]) == (version, event["first"]):
                rows[path] += event["rows"]
            if kind == "finished":
                assert rows.get(path, 0) == event["rows"]
                complete.add(path)
    return {(path, number) for path, count in rows.items() for number in range(count)}, complete
