"""Opens a job: begins one, or goes on with what an earlier run left."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from .._atomic import write_error
from ..errors import FusionEngineError
from ..output import Dtype, Failures, Table
from ..spec import Spec
from .destination import destination
from .folder import JobFolder
from .index import Index
from .journal import Job
from .part import DamagedPart, part_path, read_events
from .settings import all_settings, describe, hold_settings

logger = logging.getLogger(__name__)


@contextmanager
def open_job(
    output: str | os.PathLike[str],
    spec: Spec,
    settings: Mapping[str, Any],
    *,
    command: str = "",
    channels: bool = False,
    dtype: Dtype = "float32",
    fresh: bool = False,
    overwrite: bool = False,
) -> Iterator[Job]:
    """Open the job whose output is ``output``; what was added is on disk when the block ends.

    Until ``Job.complete`` its rows are in the folder ``OUT.parts``, which the same call goes on
    with after any end: a signal, a full disk, a power cut. One process at a time.

    Args:
        output: a ``.parquet``, ``.npz`` or ``.csv`` file as ``open_writer`` writes it; or a folder,
            if it ends in a slash or is one: there the output is a Parquet dataset of
            ``part-000000.parquet`` …, its rows in the order of the names.
        spec: of the artifact that makes the embeddings.
        settings: JSON values; everything that must be equal for the rows of two runs to mix.
        command: the command line, for the output's metadata.
        channels: the rows are of channels.
        dtype: of the embeddings in the output.
        fresh: start anew, whatever an earlier run left.
        overwrite: replace an output that other settings made.

    Raises:
        ValueError: a format or dtype that is not written, or settings that JSON does not know.
        FusionEngineError: another process has the job; parts, or an output, of other settings;
            nothing can be written.
    """
    table = Table(spec=spec, channels=channels, dtype=dtype)
    wanted = all_settings(settings, table)
    table = replace(table, job=describe(wanted, command))
    target = destination(output, dtype, wanted, overwrite=overwrite)
    with JobFolder(target.path) as folder:
        target.recover(folder)
        target.check_replaceable()
        if fresh:
            folder.remove_parts()
        hold_settings(folder, wanted)
        index, next_part = _load(folder)
        with Failures(target.given) as failures:
            job = Job(target, folder, table, index, next_part, failures)
            try:
                yield job
            except BaseException:
                _rescue(job)
                raise
            job.close()


def _rescue(job: Job) -> None:
    """Keep what can be kept of a job that ends with another error."""
    try:
        job.close()
    except FusionEngineError as error:
        logger.warning("the last rows are not kept: %s", error)


def _load(folder: JobFolder) -> tuple[Index, int]:
    """What the parts hold, and the number of the next one; damaged ones are removed."""
    index, number = Index(), 0
    for number in folder.parts():
        path = part_path(folder.path, number)
        try:
            events = read_events(path)
        except DamagedPart as error:
            logger.warning("removed, for it was not written to its end: %s", error)
            try:
                path.unlink()
            except OSError as reason:
                raise write_error(path, reason) from reason
            continue
        index.apply(number, events)
    return index, number + 1
