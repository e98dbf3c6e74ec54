"""From a table to its map."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .._atomic import refuse_inputs
from ..output import valid_text
from ..table_reader import TableReader, open_table
from .figure import draw_figure
from .groups import FOLDER, by_column, by_folder
from .page import write_page
from .projection import Method, Progress, no_progress, project
from .recordings import Recordings

PICTURES = (".png", ".pdf", ".svg")
SUFFIXES = (".html", *PICTURES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """What was drawn.

    Args:
        rows: of the table.
        method: that put them on the plane.
        text: the same in words, with the share of variance.
        groups: how many colours stand for.
        unlabelled: rows without a label.
        recordings: behind the rows.
        missing: recordings that are not where the table says.
    """

    rows: int
    method: Literal["umap", "pca"]
    text: str
    groups: int
    unlabelled: int
    recordings: int
    missing: int


def draw_map(
    table: str | os.PathLike[str] | TableReader,
    output: str | os.PathLike[str],
    *,
    method: Method = "auto",
    colour_by: str = FOLDER,
    labels: str | os.PathLike[str] | None = None,
    audio_root: str | os.PathLike[str] = ".",
    embed_audio: bool = False,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Map:
    """Draw the embeddings of a table as a map.

    Args:
        table: what ``fusion-engine embed`` wrote; a path, or what ``open_table`` made of it.
        output: ``.html`` for a page to explore, ``.png``, ``.pdf`` or ``.svg`` for a picture.
        method: as ``project`` takes it.
        colour_by: ``folder``, or a column of ``labels``.
        labels: a CSV with the column ``path``.
        audio_root: the folder in which relative paths of the table begin.
        embed_audio: put the recordings into the page, at most 32 MB; else it plays them where
            they are.
        seed: of all that is drawn.
        progress: as ``project`` takes it.

    Raises:
        ValueError: another suffix, or a column without labels.
        BackendError: umap-learn or matplotlib is missing.
        FusionEngineError: a table or labels that do not fit, recordings that are too large to
            embed, or a file that cannot be written.
    """
    suffix = Path(output).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{os.fspath(output)} must end in {' or '.join(SUFFIXES)}")
    if (labels is None) != (colour_by == FOLDER):
        raise ValueError(
            f"colour_by is {colour_by!r} and labels {labels!r}, expected {FOLDER!r} alone, or a "
            "column and the CSV that has it"
        )
    reader = table if isinstance(table, TableReader) else open_table(table)
    refuse_inputs(output, [reader.path] if labels is None else [reader.path, labels])
    paths = [valid_text(path) for path in reader.rows.paths]
    groups = by_column(paths, labels, colour_by, audio_root) if labels else by_folder(paths)
    recordings = Recordings.of(paths, audio_root)
    projection = project(reader, method, seed=seed, progress=progress)
    if suffix == ".html":
        write_page(output, reader, projection, groups, recordings, embed_audio=embed_audio)
    else:
        draw_figure(output, projection, groups)
    return Map(
        rows=len(paths),
        method=projection.method,
        text=projection.text,
        groups=len(groups.names) - bool(groups.unlabelled),
        unlabelled=groups.unlabelled,
        recordings=len(recordings.paths),
        missing=recordings.missing() if suffix == ".html" else 0,
    )
