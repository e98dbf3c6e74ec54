"""The cases of the search suite: a table's nearest rows, against NumPy on the same file.

Every sample is a process of its own; the file is in the system's cache where it fits.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion_engine.export.backbones import resolve
from fusion_engine.output import Row, open_writer
from fusion_engine.spec import Spec, WeightsSource

from .harness import AnswerCheck, Case, Contender, PeerComparison, Skipped
from .machine import ROOT, usable_cores
from .search_jobs import Work

THREADS = usable_cores()
# A sample is a whole search.
PAIRS = 2
SIZES = {"1e5": 100_000, "1e6": 1_000_000}
# Each row takes a core some 6 ms.
MOST_INDEXED = 100_000
QUERIES = (1, 32)
K = 10
LAYERS = (3, 6)
LATENT, NOISE = 32, 0.5
# Of similarities in FP32 with sums of 6144 products, against FP64.
SAME = 1e-5
WORST_RECALL = 0.9
PEER = "NumPy, FP32 in blocks"


@dataclass(frozen=True)
class SearchJob:
    """A search by one contender, run as often as samples are wanted.

    Args:
        name: see ``search_jobs``.
        work: what is searched.
        took: by every run so far, as ``search_jobs`` prints it.
    """

    name: str
    work: Work
    took: list[dict[str, float]] = field(default_factory=list)

    def run(self) -> NDArray[np.float64]:
        """Similarities [Q, k].

        Raises:
            RuntimeError: it failed.
        """
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.search_jobs", self.name, self.work.to_json()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the job {self.name} failed:\n{done.stderr}")
        printed = json.loads(done.stdout)
        self.took.append(printed["took"])
        return np.array(printed["similarities"])

    def sample(self) -> float:
        """Seconds of a run."""
        self.run()
        return self.took[-1]["seconds"]

    def most(self, figure: str) -> float:
        """The largest figure of all runs."""
        return max(took[figure] for took in self.took)


def cases() -> tuple[Case, ...]:
    """All of them, in the order of the report."""
    dim = spec().embedding_dim
    return tuple(
        case
        for name, rows in SIZES.items()
        for case in (
            *(
                Case(
                    f"search-{name}-q{queries}",
                    f"{rows} × {dim}, exact, {queries} {'query' if queries == 1 else 'queries'}",
                    partial(exact, rows, queries),
                )
                for queries in QUERIES
            ),
            Case(f"search-{name}-index", f"{rows} × {dim}, index, 1 query", partial(index, rows)),
        )
    )


def exact(rows: int, queries: int, folder: Path) -> list[PeerComparison]:
    """All rows are compared."""
    given = work(rows, queries, folder)
    ours, peer = SearchJob("exact", given), SearchJob("numpy", given)

    def check() -> AnswerCheck:
        error = float(np.abs(ours.run() - peer.run()).max())
        return AnswerCheck("largest difference of a similarity", error, SAME)

    return [compare(ours, peer, check)]


def index(rows: int, folder: Path) -> Sequence[PeerComparison | Skipped]:
    """What a graph leads to, a query on average of 32; the answers are compared by their recall."""
    if rows > MOST_INDEXED:
        reason = f"building it takes too long; an index of {MOST_INDEXED} rows is measured"
        return [Skipped(PEER, reason)]
    given = work(rows, max(QUERIES), folder)
    built = SearchJob("build", given)
    built.run()
    ours, peer = SearchJob("index", given), SearchJob("numpy", work(rows, 1, folder))

    def check() -> AnswerCheck:
        error = 1.0 - built.most("recall_at_10")
        return AnswerCheck("1 - recall@10", error, 1.0 - WORST_RECALL)

    def figures() -> dict[str, Any]:
        return {
            "recall_at_10": built.most("recall_at_10"),
            "build_seconds": built.most("seconds"),
            "build_gib": built.most("peak_gib"),
            "open_seconds": ours.most("open_seconds"),
        }

    comparison = compare(ours, peer, check)
    return [replace(comparison, figures=lambda: comparison.figures() | figures())]


def compare(ours: SearchJob, peer: SearchJob, check: Any) -> PeerComparison:
    """Two jobs on one table."""
    return PeerComparison(
        Contender("fusion_engine", lambda: ours.sample),
        Contender(PEER, lambda: peer.sample),
        check,
        lambda: {
            "ours_process": {"peak_gib": ours.most("peak_gib")},
            "peer_process": {"peak_gib": peer.most("peak_gib")},
        },
    )


def work(rows: int, queries: int, folder: Path) -> Work:
    """The table of that size, written by its first case, and queries from the same source."""
    table, wanted = folder / f"{rows}.parquet", folder / f"{queries}.npy"
    if not table.exists():
        write_table(table, rows)
    np.save(wanted, generated(queries, np.random.default_rng(1)))
    return Work(table=str(table), index=str(folder / f"{rows}.usearch"), queries=str(wanted), k=K)


def write_table(path: Path, rows: int) -> None:
    """Generated embeddings in FP16, as `embed` writes them."""
    rng = np.random.default_rng(0)
    with open_writer(path, spec(), dtype="float16") as writer:
        for first in range(0, rows, 1000):
            count = min(1000, rows - first)
            clips = [
                Row(path=f"{number:07}.wav", end=1.0, duration=1.0)
                for number in range(first, first + count)
            ]
            writer.write(clips, generated(count, rng))


def generated(count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Embeddings [n, D] near a space of few dimensions, as those of a network are."""
    dim = spec().embedding_dim
    axes = np.random.default_rng(7).standard_normal((LATENT, dim), np.float32)
    points = rng.standard_normal((count, LATENT), np.float32) @ axes
    return points + np.float32(NOISE) * rng.standard_normal((count, dim), np.float32)


def spec() -> Spec:
    """Of CNN14-Fusion."""
    backbone = resolve("cnn14")
    layers = tuple(backbone.layers[number] for number in LAYERS)
    return Spec(
        model=backbone.name,
        layers=layers,
        embedding_dim=sum(layer.dim for layer in layers),
        frontend=backbone.frontend,
        frames_per_step=backbone.frames_per_step(LAYERS),
        chunk_margin=backbone.chunk_margin(LAYERS),
        min_frames=backbone.min_frames,
        max_frames=backbone.max_frames,
        weights=WeightsSource(source="random:0", sha256="0" * 64),
    )
