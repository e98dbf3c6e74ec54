"""The tables and errors that ``fusion-engine embed`` writes, and many files to embed."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from .conftest import write_clip

# Of the artifact: block 1 of CNN14.
DIM = 2048
SUFFIXES = [".parquet", ".npz", ".csv"]


def read(path):
    """Paths, durations and embeddings, by somebody else's reader."""
    path = Path(path)
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        rows = table["embedding"].combine_chunks().values.to_numpy().reshape(len(table), -1)
        return table["path"].to_pylist(), table["duration"].to_pylist(), rows
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return (
                archive["paths"].tolist(),
                archive["durations"].tolist(),
                archive["embeddings"],
            )
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    first, duration = header.index("e0"), header.index("duration")
    values = np.array([row[first:] for row in rows], np.float64).astype(np.float32)
    return [row[0] for row in rows], [float(row[duration]) for row in rows], values


def flags(path):
    """The columns of flags and channels, by somebody else's reader."""
    path, names = Path(path), ("channel", "partial", "silent", "clipped_scale")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name].tolist() for name in names if name in archive.files}
    table = pq.read_table(path) if path.suffix == ".parquet" else pa.csv.read_csv(path)
    return {name: table[name].to_pylist() for name in names if name in table.column_names}


def failures(output):
    lines = Path(f"{output}.errors.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["path"]: line["reason"] for line in map(json.loads, lines)}


def said(result):
    """The lines on stderr, without that of the time it took."""
    lines = result.stderr.splitlines()
    return [line for line in lines if not re.search(r"of audio in [\d.]+ (s|min)", line)]


def names(folder="."):
    return sorted(path.name for path in Path(folder).iterdir())


def copies(count):
    """Names of one clip, each a file of its own."""
    write_clip(Path("clips/0.wav"))
    for index in range(1, count):
        Path(f"clips/{index}.wav").hardlink_to("clips/0.wav")
    return "clips"
