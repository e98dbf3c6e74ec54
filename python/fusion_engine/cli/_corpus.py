"""The run of ``embed`` over its files: what is done already, the rest, and the table."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .._rows import of_channel, row_of
from ..audio import Channel
from ..audio.estimate import spread_lengths
from ..audio.folders import Found
from ..errors import FusionEngineError
from ..job import Job
from ..spec import Head
from ._app import print_message
from ._failures import FailureReport
from ._findings import Findings
from ._pace import Pace
from ._progress import EmbedProgress

if TYPE_CHECKING:
    from ..engine import Engine
    from ..engine.recording import Item
    from ..engine.windows import Windows

Part = tuple[float | None, float | None]
_WHOLE: Part = (None, None)
# Headers that are read before the run, to tell how long it will take: 0.2 ms each.
_LOOKED_AT = 200


class Outcome(NamedTuple):
    """What a run has made.

    Attributes:
        rows: of the table.
        removed: there is none, and that of an earlier run was removed.
        audio: seconds of recordings that this run has embedded.
        elapsed: seconds that it took.
    """

    rows: int
    removed: bool
    audio: float
    elapsed: float


def parts_of(found: Found) -> dict[Path, list[Part]]:
    """The parts to embed of every file; of a file without a list, the whole."""
    parts = dict[Path, list[Part]]()
    if not found.listed:
        return {path: [_WHOLE] for path in found.paths}
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
    failed: FailureReport,
) -> Outcome:
    """Embed the files that an earlier run did not, and write the table of all.

    Raises:
        FusionEngineError: the table cannot be written; what was embedded is kept.
    """
    from ..engine.recording import Clip, Progress

    todo = [path for path in files if not job.is_done(path)]
    _say_what_is_done(job, len(files) - len(todo), len(files))
    rate = engine.sample_rate
    gap = 0.0 if windows is None else max(0, windows.start(1) - windows.length) / rate
    # Of parts a header tells nothing.
    whole = all(parts == [_WHOLE] for parts in files.values())
    lengths = spread_lengths(todo, _LOOKED_AT) if whole else []
    pace = Pace(len(files), len(files) - len(todo), lengths=lengths, gap=gap)
    with (
        EmbedProgress(pace, todo) as progress,
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
        reason: FusionEngineError | None = None
        for event, result in events:
            if isinstance(event, Clip):
                if isinstance(result, FusionEngineError):
                    reason = reason or of_channel(event, result)
                elif result is not None and reason is None:
                    job.add(event.key, [row_of(event, rate)], result[None])
                progress.clip(event.start / rate, event.end / rate)
                continue
            if isinstance(event, Progress):
                progress.clip(0.0, event.samples / rate)
                continue
            reason = event.error or reason
            if reason is not None:
                failed.add(event.key, reason)
                job.fail(event.key, str(reason))
                progress.fail()
            else:
                duration = event.samples / rate
                job.finish(event.key, duration=duration, partial=event.partial)
                progress.end(duration if files[event.key] == [_WHOLE] else None)
            reason = None
        elapsed = pace.elapsed
    completed = job.complete(files, seen=findings.add)
    return Outcome(completed.rows, completed.removed, pace.audio, elapsed)


def _say_what_is_done(job: Job, done: int, total: int) -> None:
    _, rows = job.going_on
    if rows:
        print_message(f"going on: {done} of {total} files are done, {rows} rows are kept")


def _items(job: Job, files: dict[Path, list[Part]], todo: Sequence[Path]) -> "Iterator[Item]":
    from ..engine.recording import Item

    for path in todo:
        yield Item(key=path, audio=path, parts=files[path], skip=job.rows_done(path))
