"""``fusion-engine embed``."""

import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ..audio import decode_ahead, find_audio
from ..engine import Engine
from ..errors import AudioError, FusionEngineError
from ..output import Failures, open_writer
from ..spec import HEADS
from ._app import Bar, app, progress_bar, stderr

# Files answered together: enough to fill a batch, few enough that the bar moves.
WINDOW_FILES = 32
WINDOW_SECONDS = 120.0

HeadName = StrEnum("HeadName", {head: head for head in HEADS})  # type: ignore[misc]

Decoded = tuple[Path, NDArray[Any]]


@app.command()
def embed(
    artifact: Annotated[Path, typer.Argument(help="An .onnx artifact of `fusion-engine export`.")],
    inputs: Annotated[
        list[Path], typer.Argument(help="Audio files, and folders to search for them.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The .parquet, .npz or .csv file to write.")
    ],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. Default: every core.")
    ] = None,
    head: Annotated[
        HeadName | None, typer.Option(help="Pooling over time. Default: the artifact's.")
    ] = None,
) -> None:
    """Embed audio files and folders into one table: path, duration (s), embedding.

    A file that cannot be embedded is reported and written to OUTPUT.errors.jsonl with its reason;
    the others go on, and the exit status is 1.
    """
    paths = find_audio(inputs)
    engine = Engine(artifact, device=device, threads=threads)
    done = 0
    with (
        Failures(output) as failures,
        open_writer(output, engine.spec) as writer,
        progress_bar("Embedding", len(paths)) as bar,
    ):
        decoded = decode_ahead(paths, engine.sample_rate)
        for window in _windows(decoded, engine.sample_rate, failures, bar):
            names, durations, rows = [], [], []
            for path, samples, row in _embed(engine, window, head, failures, bar):
                names.append(os.fspath(path))
                durations.append(len(samples) / engine.sample_rate)
                rows.append(row)
            if rows:
                writer.write(names, durations, np.stack(rows))
            done += len(rows)
            bar.advance(len(window))
        if not done:
            raise FusionEngineError(f"none of {len(paths)} files could be embedded")
    stderr.print(f"{output}: {done} embeddings of {engine.embedding_dim}", highlight=False)
    if failures.count:
        stderr.print(
            f"{failures.count} of {len(paths)} files failed: {failures.path}", highlight=False
        )
        raise typer.Exit(1)


def _windows(
    decoded: Iterator[tuple[Path, NDArray[Any] | AudioError]],
    sample_rate: int,
    failures: Failures,
    bar: Bar,
) -> Iterator[list[Decoded]]:
    """Decoded clips in groups; what could not be decoded is reported and left out."""
    window, samples = list[Decoded](), 0
    for path, result in decoded:
        if isinstance(result, AudioError):
            _report(path, result, failures, bar)
            bar.advance()
            continue
        window.append((path, result))
        samples += len(result)
        if len(window) == WINDOW_FILES or samples >= WINDOW_SECONDS * sample_rate:
            yield window
            window, samples = [], 0
    if window:
        yield window


def _embed(
    engine: Engine,
    window: list[Decoded],
    head: HeadName | None,
    failures: Failures,
    bar: Bar,
) -> Iterator[tuple[Path, NDArray[Any], NDArray[np.float32]]]:
    """Embed a window; where a clip spoils it, clip by clip, and the spoilt ones are reported."""
    name: Any = None if head is None else head.value
    try:
        rows = engine.embed([samples for _, samples in window], head=name)
    except FusionEngineError as error:
        if len(window) == 1:
            _report(window[0][0], error, failures, bar)
            return
        for one in window:
            yield from _embed(engine, [one], head, failures, bar)
        return
    for (path, samples), row in zip(window, rows, strict=True):
        yield path, samples, row


def _report(path: Path, error: Exception, failures: Failures, bar: Bar) -> None:
    failures.add(os.fspath(path), str(error))
    bar.say(f"failed: {error}")
