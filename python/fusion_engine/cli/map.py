"""``fusion-engine map``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .._install import install
from .._words import counted
from ._app import app, check_writable, output_path, phase_bars, print_message


@app.command("map")
def map_table(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE",
            help="What `fusion-engine embed` wrote: .parquet, .npz, .csv, or a dataset's folder.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            callback=output_path(".html", ".png", ".pdf", ".svg"),
            help="An .html page to explore, or a .png, .pdf or .svg for a paper.",
        ),
    ],
    method: Annotated[
        Literal["auto", "umap", "pca"],
        typer.Option(
            help="umap: of the 50 leading principal components; pca: the first two; auto: UMAP "
            "where it is installed and there are 16 rows or more."
        ),
    ] = "auto",
    colour_by: Annotated[
        str,
        typer.Option(
            "--colour-by",
            "--color-by",
            metavar="folder|COLUMN",
            help="The first folder in which the paths differ, or a column of --labels.",
        ),
    ] = "folder",
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A CSV with a column path (as in the table, or relative to the CSV) and others.",
        ),
    ] = None,
    audio_root: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Where relative paths of the table begin: the folder that `embed` was run in.",
        ),
    ] = Path(),
    embed_audio: Annotated[
        bool,
        typer.Option(
            "--embed-audio",
            help="Put the recordings into the page, up to 32 MB; without it the page plays them "
            "where they are.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of all that is drawn.")] = 0,
) -> None:
    """Draw a table as a map, where clips that sound alike lie close.

    The page needs no network and no server: open it in a browser. A point shows its file and times,
    a click plays it, a lasso makes a list of files to download as CSV, and the box searches names.
    It works by keyboard too, and in light and dark.

    \b
    Examples:
      fusion-engine map clips.npz -o map.html
      fusion-engine map clips.npz -o map.html --colour-by kind --labels kinds.csv
      fusion-engine map clips.npz -o map.png --method pca
    """
    if (labels is None) != (colour_by == "folder"):
        raise typer.BadParameter("--colour-by COLUMN and --labels FILE go together")
    if embed_audio and output.suffix.lower() != ".html":
        raise typer.BadParameter("--embed-audio is for an .html page")
    from ..map import draw_map
    from ..map.projection import UMAP_NEIGHBOURS
    from ..table_reader import open_table

    reader = open_table(table)
    check_writable(output, [table] if labels is None else [table, labels])
    with phase_bars() as progress:
        done = draw_map(
            reader,
            output,
            method=method,
            colour_by=colour_by,
            labels=labels,
            audio_root=audio_root,
            embed_audio=embed_audio,
            seed=seed,
            progress=progress,
        )
    print_message(
        f"{output}: {counted(done.rows, 'point')} in {counted(done.groups, 'colour group')} by "
        f"{colour_by}; {done.text}"
    )
    if done.method == "pca" and method == "auto" and done.rows > UMAP_NEIGHBOURS:
        print_message(f"UMAP shows more of the neighbourhoods: {install('map')}")
    if done.unlabelled:
        print_message(f"{counted(done.unlabelled, 'row')} without a label in {labels}")
    if done.missing:
        print_message(
            f"warning: {done.missing} of {counted(done.recordings, 'recording')} not found, and "
            "not played by the page; --audio-root names the folder in which the table's relative "
            "paths begin"
        )
