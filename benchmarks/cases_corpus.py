"""The cases of the corpus suite: files into a table of embeddings, each contender its own process.

With the tiny network decoding is what takes the time, with CNN14 the backbone is.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion_engine.export import export_module
from fusion_engine.export.backbones.cnn14 import FRAMES_PER_STEP

from . import cases_cpu, corpora, peers, report_corpus
from .corpus_jobs import BATCH, Work
from .harness import AnswerCheck, Case, Contender, PeerComparison, WrongAnswerError
from .machine import ROOT, usable_cores

THREADS = usable_cores()
# A sample is a whole run.
PAIRS = 3
CLIPS, RECORDINGS, RECORDING_SECONDS, WINDOW_SECONDS = 3_000, 20, 600, 5.0
# The first of them are for CNN14, which is no faster or slower on all, and would take hours.
CNN14_CLIPS, CNN14_RECORDINGS = 240, 2
CNN14_LAYERS = (3, 6)
# The answers to the first files are compared, some of every format.
CHECKED_CLIPS, CHECKED_RECORDINGS = 30, 1

# Fractions of the largest value. The stock model's FP32 spectrogram is in the first; the second has
# the same engine and samples on both sides.
STOCK, SAME = 1e-4, 1e-6

COMMAND, DECODED = "command", "decoded"
OURS = "fusion_engine"
PEERS = {
    "loop": "soundfile, soxr, PyTorch in a loop",
    "batched": f"soundfile, soxr, PyTorch, {BATCH} windows at once",
    DECODED: report_corpus.ALONE,
}


@dataclass(frozen=True)
class Corpus:
    """Files, and how they are cut.

    Args:
        paths: in order.
        window: seconds; ``None``: a file is one clip.
        checked: the first so many are those whose answers are compared.
    """

    paths: Sequence[Path]
    window: float | None
    checked: int

    def length(self) -> tuple[int, float]:
        """Rows of the table, and seconds of audio."""
        import soundfile

        seconds = [soundfile.info(path).duration for path in self.paths]
        if self.window is None:
            return len(seconds), sum(seconds)
        return sum(int(length / self.window) for length in seconds), sum(seconds)


@dataclass(frozen=True)
class CorpusJob:
    """A job on a corpus, run as often as samples are wanted.

    Args:
        name: see ``corpus_jobs``.
        corpus: its files.
        network: ``cnn14`` or ``tiny``.
        folder: scratch space, where the artifact is or comes to be.
        took: by every run so far, as ``corpus_jobs`` prints it.
    """

    name: str
    corpus: Corpus
    network: str
    folder: Path
    took: list[dict[str, float]] = field(default_factory=list)

    def answers(self) -> NDArray[np.float32]:
        """Embeddings [rows, D] of the files that are compared."""
        return self._run(self.corpus.paths[: self.corpus.checked])[0]

    def sample(self) -> float:
        """Seconds of a whole run.

        Raises:
            WrongAnswerError: rows are missing, or there are too many.
        """
        embeddings, took = self._run(self.corpus.paths)
        expected, _ = self.corpus.length()
        if len(embeddings) != expected:
            raise WrongAnswerError(
                f"{self.network}, {self.name}: {len(embeddings)} rows, expected {expected}"
            )
        self.took.append(took)
        return took["seconds"]

    def figures(self) -> dict[str, float]:
        """What all the cores did on average, in the run in the middle, and the most memory held."""
        return {
            "cpu_utilisation": statistics.median(
                took["cpu_seconds"] / (took["seconds"] * usable_cores()) for took in self.took
            ),
            "peak_gib": max(took["peak_gib"] for took in self.took),
        }

    def _run(self, paths: Sequence[Path]) -> tuple[NDArray[np.float32], dict[str, float]]:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            files, answers = Path(folder, "files.txt"), Path(folder, "answers")
            files.write_text("".join(f"{path}\n" for path in paths))
            answers.mkdir()
            work = Work(
                files=str(files),
                network=self.network,
                artifact=str(exported(self.network, self.folder)),
                window=self.corpus.window,
                threads=THREADS,
                folder=str(answers),
            )
            took = run_alone(self.name, work)
            return read(answers), took


def cases() -> tuple[Case, ...]:
    """All of them, in the order of the report."""
    minutes = f"{RECORDING_SECONDS // 60} min, 48 kHz, windows of {WINDOW_SECONDS:g} s"
    return (
        Case(
            "corpus-clips-tiny",
            f"{CLIPS} short clips, tiny network",
            partial(clips, "tiny", CLIPS, ("loop",)),
        ),
        Case(
            "corpus-recordings-tiny",
            f"{RECORDINGS} FLAC of {minutes}, tiny network",
            partial(recordings, "tiny", RECORDINGS, ("loop",)),
        ),
        Case(
            "corpus-clips-cnn14",
            f"{CNN14_CLIPS} short clips, CNN14-Fusion",
            partial(clips, "cnn14", CNN14_CLIPS, ("loop", DECODED)),
        ),
        Case(
            "corpus-recordings-cnn14",
            f"{CNN14_RECORDINGS} FLAC of {minutes}, CNN14-Fusion",
            partial(recordings, "cnn14", CNN14_RECORDINGS, ("loop", "batched", DECODED)),
        ),
    )


def clips(network: str, count: int, against: Sequence[str], folder: Path) -> list[PeerComparison]:
    """Short mixed clips, one embedding each."""
    made = once(folder / "clips", lambda path: corpora.short_clips(path, CLIPS))
    return comparisons(Corpus(made[:count], None, CHECKED_CLIPS), network, against, folder)


def recordings(
    network: str, count: int, against: Sequence[str], folder: Path
) -> list[PeerComparison]:
    """Long recordings, an embedding for each window."""
    made = once(
        folder / "recordings",
        lambda path: corpora.long_recordings(path, RECORDINGS, RECORDING_SECONDS),
    )
    corpus = Corpus(made[:count], WINDOW_SECONDS, CHECKED_RECORDINGS)
    return comparisons(corpus, network, against, folder)


def once(folder: Path, make: Callable[[Path], None]) -> list[Path]:
    """The files of a corpus, made by its first case and on disk when that is timed."""
    if not folder.exists():
        make(folder)
        os.sync()
    return sorted(folder.iterdir())


def comparisons(
    corpus: Corpus, network: str, against: Sequence[str], folder: Path
) -> list[PeerComparison]:
    """The command against each peer."""
    return [
        compare(
            CorpusJob(COMMAND, corpus, network, folder), CorpusJob(peer, corpus, network, folder)
        )
        for peer in against
    ]


def compare(ours: CorpusJob, peer: CorpusJob) -> PeerComparison:
    """Two jobs on one corpus."""

    def check() -> AnswerCheck:
        got, expected = ours.answers(), peer.answers()
        if got.shape != expected.shape:
            raise ValueError(f"{peer.name} gives {expected.shape}, ours {got.shape}")
        error = float(np.abs(got - expected).max() / np.abs(expected).max())
        tolerance = SAME if peer.name == DECODED else STOCK
        return AnswerCheck("largest difference / largest value", error, tolerance)

    def figures() -> dict[str, Any]:
        _, seconds = ours.corpus.length()
        processes = {"ours_process": ours.figures(), "peer_process": peer.figures()}
        return {"audio_seconds": seconds, **processes}

    return PeerComparison(
        Contender(OURS, lambda: ours.sample),
        Contender(PEERS[peer.name], lambda: peer.sample),
        check,
        figures,
    )


def exported(network: str, folder: Path) -> Path:
    """The network's artifact, made once per run."""
    if network == "cnn14":
        return cases_cpu.exported(CNN14_LAYERS, folder)
    artifact = folder / "tiny.onnx"
    if not artifact.exists():
        export_module(
            peers.Tiny().eval(),
            artifact,
            layers=["conv"],
            frontend=cases_cpu.CNN14.frontend,
            dynamic_from=FRAMES_PER_STEP,
        )
    return artifact


def run_alone(name: str, work: Work) -> dict[str, float]:
    """Run a job in a new process: what it took.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.corpus_jobs", name, work.to_json()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the job {name} failed:\n{done.stderr}")
    took: dict[str, float] = json.loads(done.stdout)
    return took


def read(folder: Path) -> NDArray[np.float32]:
    """Embeddings [rows, D]: of the command's table, or what another job wrote."""
    table = folder / "table.parquet"
    if not table.exists():
        embeddings: NDArray[np.float32] = np.load(folder / "embeddings.npy")
        return embeddings
    import pyarrow.parquet

    column = pyarrow.parquet.read_table(table, columns=["embedding"])["embedding"]
    flat = column.combine_chunks().flatten().to_numpy()
    return flat.reshape(len(column), -1)
