"""``fusion-engine embed``."""

import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer

from .._atomic import refuse_inputs
from .._words import counted
from ..artifact import file_sha256
from ..audio import Channel, find_audio, find_listed, parse_shard, read_list, shard
from ..audio.estimate import MAX_LOOKS, survey
from ..audio.folders import Found
from ..audio.listing import Listed
from ..errors import FusionEngineError
from ..job import open_job
from ..output import Dtype, check_format, written_beside
from ..spec import Head
from ._app import app, as_options, check_writable, print_message, progress_bar
from ._artifact import check_weights, find_artifact
from ._corpus import Outcome, Part, embed_files, parts_of
from ._dry_run import print_survey
from ._failures import FailureReport
from ._findings import Findings, notes
from ._plain import hours, span, times_real
from ._ray import check_cluster_options, embed_on_cluster

if TYPE_CHECKING:
    from ..engine import Engine
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
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="The .parquet, .npz or .csv file to write, or FOLDER/ for a dataset in Parquet.",
        ),
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE_OR_FOLDER", help="Audio files, and folders to search for them."
        ),
    ] = None,
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
            help="What is left after the last whole window: a window of its own if it is half of "
            "one, always, filled up with zeros, or none."
        ),
    ] = "half",
    from_list: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="In place of files and folders, a list: a path a line, or CSV with path, and "
            "start and end (s) of a part. - is standard input.",
        ),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Only the I-th of N shares of the files."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16"], typer.Option(help="Of the embeddings in the table.")
    ] = "float32",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is, and what it would take.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew, whatever a run that was stopped has kept.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an OUT that another command made.")
    ] = False,
    head: Annotated[
        Head | None, typer.Option(help="Pooling over time; the artifact's by default.")
    ] = None,
    normalization: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="MEAN STD", help="AST: of the task's log-mel; the artifact's by default."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Embed on the Ray cluster at ADDRESS (auto, HOST:PORT of its head, or local) into "
            "FOLDER/. Every node must see the files and the artifact under the same paths.",
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

    Rows are put on disk as they come, in OUT.parts. A run that was stopped, by whatever means, goes
    on from them when the same command is given again.

    silent: every sample is zero, as where the channels of the mix cancel each other.
    clipped_scale: a sample is beyond 16 (of full scale 1): integers saved as floats, or damage.

    \b
    Examples:
      fusion-engine embed cnn14-fusion recordings/ -o embeddings.parquet
      fusion-engine embed cnn14_3_6.onnx recordings/ -o embeddings.parquet
      fusion-engine embed cnn14_3_6.onnx a.wav b.flac --head max -o embeddings.csv
      fusion-engine embed cnn14_3_6.onnx a.wav --window 5 -o windows.parquet
    """
    # Here, so that the other commands run where the native module does not load.
    from ..engine import Engine

    chosen = _channel(channel)
    _check_format(output, dtype)
    check_weights(artifact, weights)
    found = _find(inputs or [], from_list, share)
    given = [Path(artifact), *(inputs or []), *([from_list] if from_list else [])]
    _check_output(Path(output), given, found)
    if not found.paths:
        raise FusionEngineError("\n".join(str(error) for _, error in found.failures))
    if ray is not None:
        check_cluster_options(
            output,
            device,
            weights=weights,
            shard=share,
            dry_run=dry_run,
            fresh=fresh,
            overwrite=overwrite,
        )
        embed_on_cluster(
            ray,
            found,
            artifact,
            output,
            device=device,
            threads=threads,
            window=window,
            hop=hop,
            tail=tail,
            head=head,
            channel=chosen,
            partial=partial,
            dtype=dtype,
            normalization=normalization,
        )
        return
    path = find_artifact(artifact, weights)
    try:
        engine = Engine(path, device=device, threads=threads, normalization=normalization)
        engine.embed([], head=head)  # no clips: refuses a head that does not fit before the work
        windows = engine.windows(window, hop, tail)
    except ValueError as error:
        raise typer.BadParameter(as_options(str(error))) from None
    files = parts_of(found)
    if dry_run:
        _survey(engine, found, windows, dtype, all_channels=chosen == "all")
        return
    spec = replace(engine.spec, head=head or engine.spec.head)
    settings = {
        "artifact": file_sha256(path),
        "backend": engine.backend,
        "head": spec.head,
        "normalization": normalization,
        "window": None if windows is None else [window, hop or window, tail],
        "channel": chosen,
        "partial": partial,
        "parts": _parts_digest(files),
    }
    findings = Findings(mixed=chosen == "mix")
    with open_job(
        output,
        spec,
        settings,
        command=_command(),
        channels=chosen == "all",
        dtype=dtype,
        fresh=fresh,
        overwrite=overwrite,
    ) as job:
        failed = FailureReport(job.failures.path)
        for folder, reason in found.failures:
            failed.say(reason)
            job.fail(folder, str(reason))
        done = embed_files(
            engine,
            job,
            files,
            windows=windows,
            head=head,
            channel=chosen,
            partial=partial,
            findings=findings,
            failed=failed,
        )
        failures, going_on = job.failures, any(job.going_on)
    if done.rows:
        embeddings = counted(done.rows, "embedding")
        of = counted(len(files) - failed.count, "file")
        print_message(f"{output}: {embeddings} of {engine.embedding_dim} from {of}")
    if done.audio:
        print_message(_speed(done, going_on=going_on))
    for line in findings.warnings():
        print_message(f"warning: {line}")
    for line in notes(found):
        print_message(line)
    if failures.count:
        if done.removed:
            print_message(f"{output}: of an earlier run, removed, since this one has no embeddings")
        parts = [f"{failed.count} of {counted(len(files), 'file')} failed"]
        if found.failures:
            parts.append(f"{counted(len(found.failures), 'folder')} gave nothing or not all")
        print_message(f"{', '.join(parts)}: {failures.path}")
        for line in failed.kinds():
            print_message(line)
        raise typer.Exit(1)


def _speed(done: Outcome, *, going_on: bool) -> str:
    took = f"{done.elapsed:.1f} s" if done.elapsed < 10 else span(done.elapsed)
    speed = times_real(done.audio / done.elapsed)
    return f"{'this run: ' if going_on else ''}{hours(done.audio)} of audio in {took} ({speed})"


def _channel(text: str) -> Channel:
    match text:
        case "mix" | "first" | "all":
            return text
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(
        f"{text!r} is not mix, first, all or a number from 1 on", param_hint="'--channel'"
    )


def _check_format(output: str, dtype: Dtype) -> None:
    if output.endswith("/") or Path(output).is_dir():
        return
    try:
        check_format(output, dtype)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--output' / '-o'") from None


def _find(inputs: list[Path], from_list: Path | None, share: str | None) -> Found:
    """The files of a run, of a share of them where one is named.

    Raises:
        BadParameter: neither or both of files and a list, or no such share.
        FusionEngineError: a list that cannot be read.
    """
    if bool(inputs) == (from_list is not None):
        raise typer.BadParameter("expected files and folders, or --from-list, one of the two")
    found = find_audio(inputs) if from_list is None else find_listed(read_list(from_list))
    if share is None:
        return found
    try:
        number, of = parse_shard(share)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--shard'") from None
    if found.listed:
        found.listed = shard(found.listed, number, of)
        found.paths = [entry.path for entry in found.listed]
    else:
        found.paths = shard(found.paths, number, of)
    if not found.paths and not found.failures:
        raise FusionEngineError(f"share {share} has no files")
    return found


def _parts_digest(files: dict[Path, list[Part]]) -> str | None:
    """What tells one list of parts from another; ``None`` where all files are whole."""
    if all(parts == [(None, None)] for parts in files.values()):
        return None
    text = json.dumps([[os.fspath(path), parts] for path, parts in files.items()])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _command() -> str:
    """The command line, without what only says how to begin."""
    return shlex.join(
        ["fusion-engine", *(a for a in sys.argv[1:] if a not in ("--fresh", "--overwrite"))]
    )


def _survey(
    engine: "Engine", found: Found, windows: "Windows | None", dtype: Dtype, *, all_channels: bool
) -> None:
    """Say what a run would take; the speed is that of a few seconds of noise, embedded now."""
    items: Sequence[Path] | Sequence[Listed] = found.listed or found.paths
    with progress_bar("Looking", min(len(found.paths), MAX_LOOKS)) as advance:
        result = survey(
            items,
            engine.sample_rate,
            (lambda samples: 1) if windows is None else windows.count,
            engine.embedding_dim * np.dtype(dtype).itemsize,
            all_channels=all_channels,
            advance=advance,
        )
    seconds = 10.0 if windows is None else windows.length / engine.sample_rate
    length = min(seconds, 20.0)  # a longer window takes as much longer
    clips = max(1, round(20 / length))
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, round(length * engine.sample_rate))
    batch = np.tile(noise.astype(np.float32), (clips, 1))
    engine.embed(batch)
    started = time.perf_counter()
    engine.embed(batch)
    hop = windows.start(1) / engine.sample_rate if windows is not None else seconds
    print_survey(result, clips * length * hop / seconds / (time.perf_counter() - started))


def _check_output(output: Path, given: list[Path], found: Found) -> None:
    """Refuse an output that cannot be written, or that would replace something it is made from.

    Raises:
        FusionEngineError: it would.
    """
    if output.is_dir() or not output.suffix:
        return  # a dataset, which replaces nothing of others
    for path in written_beside(output):
        refuse_inputs(path, given)
        real = os.path.realpath(path)
        if real in found.real:
            refuse_inputs(path, [real])
    check_writable(output)
