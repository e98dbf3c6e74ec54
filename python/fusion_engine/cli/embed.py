"""``fusion-engine embed``."""

import os
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from .._atomic import refuse_inputs
from ..audio import Channel, find_audio
from ..audio.folders import Found
from ..errors import FusionEngineError
from ..output import Failures, Row, open_writer, remove_output, written_beside
from ..spec import Head
from ._app import (
    app,
    as_options,
    check_writable,
    counted,
    output_path,
    print_message,
    progress_bar,
)
from ._artifact import check_weights, find_artifact
from ._findings import Findings, notes

if TYPE_CHECKING:
    from ..engine import Engine
    from ..engine.stream import Clip
    from ..engine.windows import Windows


@app.command()
def embed(
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT",
            help="An .onnx or .plan file, or a name that `fusion-engine models` lists, such as "
            "cnn14-fusion: it is exported on first use, and kept in the cache.",
        ),
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
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="pretrained|random:SEED|PATH",
            help="Of a name: as for `fusion-engine export`; pretrained by default.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPU threads; every core by default.")
    ] = None,
    channel: Annotated[
        str,
        typer.Option(
            metavar="mix|first|N|all",
            help="Of files with several channels: their mean, the first, the N-th (from 1 on), or "
            "a row for each, with a column `channel`.",
        ),
    ] = "mix",
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Of files that are damaged or contradict themselves, embed what is there, marked "
            "in the column `partial`; without it they fail.",
        ),
    ] = False,
    window: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="A row for each window of so many seconds."),
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="From the start of one window to the next; the window's length."
        ),
    ] = None,
    tail: Annotated[
        Literal["half", "keep", "pad", "drop"],
        typer.Option(
            help="What is left behind the last whole window: a window of its own if it is half of "
            "one, always, filled up with zeros, or none."
        ),
    ] = "half",
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

    Its columns are path, start, end and duration (s), what was found about the file (partial,
    silent, clipped_scale: true or false) and embedding. The files may be WAV, FLAC, OGG, MP3, AIFF
    and whatever else libsndfile reads, and where ffmpeg is installed also M4A, AAC, WebM, WMA and
    others; of any rate, length and number of channels. Rows are in the order of the inputs, the
    files of a folder (and of the folders in it, links followed once) sorted by path. A file that is
    given in several ways has one row. What a folder holds besides is counted at the end; hidden
    files are left out.

    A file that cannot be embedded is reported, the others go on, and the exit status is 1. The
    reasons are in OUT.errors.jsonl. If all fail, an older OUT is removed.

    silent: every sample is zero, as where the channels of the mix cancel each other.
    clipped_scale: a sample is beyond 16 (of full scale 1): integers saved as floats, or damage.

    \b
    Examples:
      fusion-engine embed cnn14-fusion recordings/ -o embeddings.parquet
      fusion-engine embed cnn14_3_6.onnx recordings/ -o embeddings.parquet
      fusion-engine embed cnn14_3_6.onnx a.wav b.flac --head max -o embeddings.csv
    """
    # Here, so that the other commands run where the native module does not load.
    from ..engine import Engine

    chosen = _channel(channel)
    check_weights(artifact, weights)
    found = find_audio(inputs)
    _check_output(output, [Path(artifact), *inputs], found)
    if not found.paths:
        raise FusionEngineError("\n".join(str(error) for _, error in found.failures))
    path = find_artifact(artifact, weights)
    try:
        engine = Engine(path, device=device, threads=threads, normalization=normalization)
        engine.embed([], head=head)  # no clips: refuses a head that does not fit before the work
        windows = engine.windows(window, hop, tail)
    except ValueError as error:
        raise typer.BadParameter(as_options(str(error))) from None
    findings = Findings(mixed=chosen == "mix")
    with Failures(output) as failures:

        def report(path: Path, error: FusionEngineError) -> None:
            failures.add(os.fspath(path), str(error))
            print_message(f"failed: {as_options(str(error))}")

        for folder, reason in found.failures:
            report(folder, reason)
        # An output without a single row is not written, and the reasons are.
        with suppress(_NothingWritten):
            _run(engine, output, found.paths, chosen, partial, head, windows, report, findings)
        # Inside, so that none of an earlier run is seen beside the new reasons.
        stale = not findings.rows and remove_output(output)
    if findings.rows:
        embeddings = counted(findings.rows, "embedding")
        print_message(f"{output}: {embeddings} of {engine.embedding_dim}")
    for line in findings.warnings():
        print_message(f"warning: {line}")
    for line in notes(found):
        print_message(line)
    if failures.count:
        if stale:
            print_message(f"{output}: of an earlier run, removed, since this one has no embeddings")
        parts = [f"{findings.failed.count} of {counted(len(found.paths), 'file')} failed"]
        if found.failures:
            parts.append(f"{counted(len(found.failures), 'folder')} gave nothing or not all")
        print_message(f"{', '.join(parts)}: {failures.path}")
        raise typer.Exit(1)


Report = Callable[[Path, FusionEngineError], None]


class _NothingWritten(Exception):
    """Leaves a file that is being written as it was."""


def _channel(text: str) -> Channel:
    match text:
        case "mix" | "first" | "all":
            return text
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(
        f"{text!r} is not mix, first, all or a number from 1 on", param_hint="'--channel'"
    )


def _check_output(output: Path, given: list[Path], found: Found) -> None:
    """Refuse an output that cannot be written, or that would replace something it is made from.

    Raises:
        FusionEngineError: it would.
    """
    for path in written_beside(output):
        refuse_inputs(path, given)
        real = os.path.realpath(path)
        if real in found.real:
            refuse_inputs(path, [real])
    check_writable(output)


def _run(
    engine: "Engine",
    output: Path,
    paths: list[Path],
    channel: Channel,
    partial: bool,
    head: Head | None,
    windows: "Windows | None",
    report: Report,
    findings: Findings,
) -> None:
    """Embed ``paths`` into ``output``.

    Raises:
        _NothingWritten: every file failed.
    """
    from ..engine.stream import Clip, Item

    each = channel == "all"
    clips = None if each or windows is not None else len(paths)
    items = (Item(key=path, audio=path) for path in paths)
    with (
        open_writer(output, engine.spec, clips=clips, channels=each) as writer,
        progress_bar("Embedding", len(paths)) as advance,
        # Closed here: a thread that a signal caught starting is known to nobody else at exit.
        closing(
            engine.embed_items(items, windows=windows, head=head, channel=channel, partial=partial)
        ) as events,
    ):
        rows, embeddings = list[Row](), list[NDArray[np.float32]]()
        reason: FusionEngineError | None = None
        for event, result in events:
            if isinstance(event, Clip):
                if isinstance(result, FusionEngineError):
                    reason = reason or _of_channel(event, result)
                elif result is not None:
                    rows.append(_row(event, engine.sample_rate))
                    embeddings.append(result)
                continue
            reason = event.error or reason
            if reason is not None:
                findings.failed.add(os.fspath(event.key))
                report(event.key, reason)
            else:
                duration = event.samples / engine.sample_rate
                rows = [replace(row, duration=duration, partial=event.partial) for row in rows]
                writer.write(rows, np.stack(embeddings))
                findings.add(rows)
            rows, embeddings, reason = [], [], None
            advance(1)
        if not findings.rows:
            raise _NothingWritten


def _row(clip: "Clip", sample_rate: int) -> Row:
    """Of a clip; what is of the whole file comes at its end."""
    return Row(
        path=os.fspath(clip.key),
        channel=clip.channel,
        start=clip.start / sample_rate,
        end=clip.end / sample_rate,
        duration=0.0,
        silent=clip.silent,
        clipped_scale=clip.clipped_scale,
    )


def _of_channel(clip: "Clip", error: FusionEngineError) -> FusionEngineError:
    if clip.channel is None:
        return error
    return type(error)(f"{error} (channel {clip.channel})")
