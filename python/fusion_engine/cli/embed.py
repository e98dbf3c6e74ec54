"""``fusion-engine embed``."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from ..audio import Recording, decode_ahead, find_audio
from ..errors import AudioError, FusionEngineError
from ..output import Failures, open_writer
from ..spec import Head
from ._app import app, check_writable, output_path, print_message, progress_bar

if TYPE_CHECKING:
    from ..engine import Engine

# Files answered together: enough to fill a batch, few enough that the bar moves.
WINDOW_FILES = 32
WINDOW_SECONDS = 120.0

Decoded = tuple[Path, NDArray[np.float32]]


@app.command()
def embed(
    artifact: Annotated[
        Path,
        typer.Argument(metavar="ARTIFACT", help="An .onnx file that `fusion-engine export` wrote."),
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE_OR_FOLDER", help="Audio files, and folders to search for them."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            callback=output_path(".parquet", ".npz", ".csv"),
            help="The .parquet, .npz or .csv file to write.",
        ),
    ],
    device: Annotated[
        str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPU threads; every core by default.")
    ] = None,
    head: Annotated[
        Head | None, typer.Option(help="Pooling over time; the artifact's by default.")
    ] = None,
    normalization: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="MEAN STD", help="AST: of the task's log-mel; the artifact's by default."
        ),
    ] = None,
) -> None:
    """Embed audio files into one table.

    Its columns are path, duration (s) and embedding. The files may be WAV, FLAC, OGG, MP3 or AIFF,
    of any rate, length and number of channels. Rows are in the order of the inputs, the files of a
    folder (and of the folders in it) sorted by path.

    A file that cannot be embedded is reported, the others go on, and the exit status is 1. The
    reasons are in OUT.errors.jsonl.

    \b
    Examples:
      fusion-engine embed cnn14_3_6.onnx recordings/ -o embeddings.parquet
      fusion-engine embed cnn14_3_6.onnx a.wav b.flac --head max -o embeddings.csv
    """
    # Here, so that the other commands run where the native module does not load.
    from ..engine import Engine

    check_writable(output)
    paths = find_audio(inputs).paths
    try:
        engine = Engine(artifact, device=device, threads=threads, normalization=normalization)
        engine.embed([], head=head)  # no clips: refuses a head that does not fit before the work
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    done = 0
    with (
        Failures(output) as failures,
        # Inside, so that an output without a single row is not written, and the reasons are.
        suppress(_NothingWritten),
        open_writer(output, engine.spec, clips=len(paths)) as writer,
        progress_bar("Embedding", len(paths)) as advance,
        # Closed here: a thread that a signal caught starting is known to nobody else at exit.
        decode_ahead(paths, engine.sample_rate) as decoded,
    ):

        def report(path: Path, error: FusionEngineError) -> None:
            failures.add(os.fspath(path), str(error))
            print_message(f"failed: {error}")
            advance(1)

        for window in _windows(decoded, engine, report):
            rows = list(_embed(engine, window, head, report))
            if rows:
                names, durations, embeddings = zip(*rows, strict=True)
                writer.write(names, durations, np.stack(embeddings))
            done += len(rows)
            advance(len(rows))
        if not done:
            raise _NothingWritten
    if done:
        print_message(f"{output}: {done} embeddings of {engine.embedding_dim}")
    if failures.count:
        print_message(f"{failures.count} of {len(paths)} files failed: {failures.path}")
        raise typer.Exit(1)


Report = Callable[[Path, FusionEngineError], None]


class _NothingWritten(Exception):
    """Leaves a file that is being written as it was."""


def _windows(
    decoded: Iterator[tuple[Path, Recording | AudioError]],
    engine: "Engine",
    report: Report,
) -> Iterator[list[Decoded]]:
    """Decoded clips in groups; what could not be decoded is reported and left out."""
    window, samples = list[Decoded](), 0
    for path, result in decoded:
        if isinstance(result, AudioError):
            report(path, result)
            continue
        window.append((path, result.samples))
        samples += len(result.samples)
        if len(window) == WINDOW_FILES or samples >= WINDOW_SECONDS * engine.sample_rate:
            yield window
            window, samples = [], 0
    if window:
        yield window


def _embed(
    engine: "Engine", window: list[Decoded], head: Head | None, report: Report
) -> Iterator[tuple[str, float, NDArray[np.float32]]]:
    """Path, duration and embedding of each clip.

    Where a clip spoils the window they go one by one, and the spoilt ones are reported.
    """
    try:
        embeddings = engine.embed([samples for _, samples in window], head=head)
    except FusionEngineError as error:
        if len(window) == 1:
            report(window[0][0], error)
            return
        for one in window:
            yield from _embed(engine, [one], head, report)
        return
    for (path, samples), embedding in zip(window, embeddings, strict=True):
        yield os.fspath(path), len(samples) / engine.sample_rate, embedding
