"""Embedding a corpus, by one contender in a process of its own, which says what it took.

``cases_corpus`` runs it as ``python -m benchmarks.corpus_jobs JOB WORK``. A job imports only what
it needs, since its memory is reported.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .machine import cpu_seconds, peak_gib

RATE = 16_000
BATCH = 16

Run = Callable[[], None]
Samples = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be embedded, and how.

    Args:
        files: a list of paths, one a line.
        network: ``cnn14`` or ``tiny``.
        artifact: the network's.
        window: seconds; ``None``: a file is one clip.
        threads: of the network.
        folder: empty; takes the answers.
    """

    files: str
    network: str
    artifact: str
    window: float | None
    threads: int
    folder: str

    def to_json(self) -> str:
        """As one argument of a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What ``to_json`` wrote."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)

    @property
    def paths(self) -> list[Path]:
        """The files, in order."""
        return [Path(line) for line in Path(self.files).read_text().splitlines()]


def command(work: Work) -> Run:
    """What people type, from its imports to the table on disk."""
    sys.argv = ["fusion-engine", "embed", work.artifact, "--from-list", work.files]
    sys.argv += ["--output", f"{work.folder}/table.parquet"]
    sys.argv += ["--device", "cpu", "--threads", str(work.threads)]
    if work.window is not None:
        sys.argv += ["--window", str(work.window)]

    def run() -> None:
        from fusion_engine.__main__ import main

        main()

    return run


def decoded(work: Work) -> Run:
    """The engine alone: the same stream of the same files, decoded before."""
    from fusion_engine import Engine
    from fusion_engine.audio import load

    engine = Engine(work.artifact, device="cpu", threads=work.threads)
    items = [(path, load(path, engine.sample_rate).samples) for path in work.paths]

    def run() -> None:
        found = engine.embed_stream(items, window=work.window)
        _write(work, [embedded.result for embedded in found])

    return run


def loop(work: Work, batch: int = 1) -> Run:
    """A plain loop: soundfile, the mean of the channels, soxr, and the network in PyTorch."""
    import soundfile
    import soxr
    import torch

    torch.set_num_threads(work.threads)
    embed = _eager(work)

    def run() -> None:
        rows: list[Samples] = []
        for path in work.paths:
            audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
            samples = soxr.resample(audio.mean(axis=1), rate, RATE)
            clips = list(_windows(samples, work.window))
            for first in range(0, len(clips), batch):
                rows.extend(embed(np.stack(clips[first : first + batch])))
        _write(work, rows)

    return run


def batched(work: Work) -> Run:
    """The same loop, with several windows of a file at once."""
    return loop(work, BATCH)


JOBS: dict[str, Callable[[Work], Run]] = {
    job.__name__: job for job in (command, decoded, loop, batched)
}


def _eager(work: Work) -> Callable[[Samples], Samples]:
    from fusion_engine.artifact import read_spec
    from tests.oracles import panns_cnn14

    from .peers import EagerCnn14, EagerTiny

    if work.network == "tiny":
        return EagerTiny(RATE)
    return EagerCnn14(panns_cnn14(RATE), read_spec(work.artifact).layers)


def _windows(samples: Samples, seconds: float | None) -> Iterator[Samples]:
    """Whole windows only: the corpora are cut without a rest."""
    length = len(samples) if seconds is None else round(seconds * RATE)
    for first in range(0, len(samples) - length + 1, length):
        yield samples[first : first + length]


def _write(work: Work, rows: list[Any]) -> None:
    np.save(f"{work.folder}/embeddings.npy", np.stack(rows))


def main(name: str, work: Work) -> None:
    """Run one job, and print what it took as JSON."""
    run = JOBS[name](work)
    wall, cpu = time.perf_counter(), cpu_seconds()
    with suppress(SystemExit):  # the command's; without a table its run is found to have failed
        run()
    seconds = time.perf_counter() - wall
    took = {"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu, "peak_gib": peak_gib()}
    print(json.dumps(took))


if __name__ == "__main__":
    main(sys.argv[1], Work.from_json(sys.argv[2]))
