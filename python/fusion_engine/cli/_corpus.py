"""The run of ``embed`` over its files: what is done already, the rest, and the table."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from .._rows import of_channel, row_of
from ..audio import Channel
from ..audio.folders import Found
from ..errors import FusionEngineError
from ..job import Completed, Job
from ..spec import Head
from ._app import as_options, print_message, progress_bar
from ._findings import Findings

if TYPE_CHECKING:
    from ..engine import Engine
    from ..engine.stream import Item
    from ..engine.windows import Windows

Part = tuple[float | None, float | None]


def parts_of(found: Found) -> dict[Path, list[Part]]:
    """The parts to embed of every file; of a file without a list, the whole."""
    parts = dict[Path, list[Part]]()
    if not found.listed:
        return {path: [(None, None)] for path in found.paths}
    for entry in found.listed:
        parts.setdefault(entry.path, []).append((entry.start, entry.end))
    return parts


def embed_files(
    engine: "Engine",
    job: Job,
    files: dict[Path, list[Part]],
    *,
    windows: "Windows | None",
    head: Head | None,
    channel: Channel,
    partial: bool,
    findings: Findings,
) -> Completed:
    """Embed the files that an earlier run did not, and write the table of all.

    Raises:
        FusionEngineError: the table cannot be written; what was embedded is kept.
    """
    from ..engine.stream import Clip

    todo = [path for path in files if not job.is_done(path)]
    _say_what_is_done(job, len(files) - len(todo), len(files))
    with (
        progress_bar("Embedding", len(files)) as advance,
        # Closed here: a thread that a signal caught starting is known to nobody else at exit.
        closing(
            engine.embed_items(
                _items(job, files, todo),
                windows=windows,
                head=head,
                channel=channel,
                partial=partial,
            )
        ) as events,
    ):
        if len(todo) < len(files):
            advance(len(files) - len(todo))
        reason: FusionEngineError | None = None
        for event, result in events:
            if isinstance(event, Clip):
                if isinstance(result, FusionEngineError):
                    reason = reason or of_channel(event, result)
                elif result is not None and reason is None:
                    job.add(event.key, [row_of(event, engine.sample_rate)], result[None])
                continue
            reason = event.error or reason
            if reason is not None:
                findings.failed.add(os.fspath(event.key))
                print_message(f"failed: {as_options(str(reason))}")
                job.fail(event.key, str(reason))
            else:
                duration = event.samples / engine.sample_rate
                job.finish(event.key, duration=duration, partial=event.partial)
            reason = None
            advance(1)
    return job.complete(files, seen=findings.add)


def _say_what_is_done(job: Job, done: int, total: int) -> None:
    _, rows = job.going_on
    if rows:
        print_message(f"going on: {done} of {total} files are done, {rows} rows are kept")


def _items(job: Job, files: dict[Path, list[Part]], todo: Sequence[Path]) -> "Iterator[Item]":
    from ..engine.stream import Item

    for path in todo:
        yield Item(key=path, audio=path, parts=files[path], skip=job.rows_done(path))
