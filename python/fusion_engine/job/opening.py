"""Opens a job: begins one, or goes on with what an earlier run left."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..journal import Journal
from ..output import Dtype, Failures, Table
from ..spec import Spec
from .destination import destination
from .folder import JobFolder
from .job import Job
from .settings import all_settings, describe_job, hold_settings


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
    dim = spec.embedding_dim
    table = Table(spec=spec, embedding_dim=dim, channels=channels, dtype=dtype)
    wanted = all_settings(settings, table)
    table = replace(table, job=describe_job(wanted, command))
    target = destination(output, dtype, wanted, overwrite=overwrite)
    with JobFolder(target.path) as folder:
        target.recover(folder)
        target.check_replaceable()
        if fresh:
            folder.remove_parts()
        hold_settings(folder, wanted)
        with Failures(target.given) as failures, Journal(folder.path, table) as journal:
            yield Job(target, folder, table, journal, failures)
