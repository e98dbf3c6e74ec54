"""``fusion-engine index``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .._words import counted
from ._app import app, check_writable, output_path, phase_bars, print_message


@app.command()
def index(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="The .parquet or folder of `embed`.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="X.usearch",
            callback=output_path(".usearch"),
            help="The index to write; X.usearch.json beside it says what it is of.",
        ),
    ],
    metric: Annotated[Literal["cosine", "l2"], typer.Option(help="How near two are.")] = "cosine",
    connectivity: Annotated[
        int,
        typer.Option(min=2, max=4096, metavar="N", help="Neighbours of a row; more find more."),
    ] = 16,
    expansion_add: Annotated[
        int,
        typer.Option(min=2, max=4096, metavar="N", help="Rows looked at to put one in."),
    ] = 128,
    expansion_search: Annotated[
        int,
        typer.Option(min=2, max=4096, metavar="N", help="Rows looked at in a search."),
    ] = 64,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPU threads; every core by default.")
    ] = None,
) -> None:
    """Index a table, so that millions of rows are searched at once.

    It is for `fusion-engine search --index`, and built in memory, in FP16: about 12.5 GB for a
    million embeddings of 6144. Its recall against exact search is measured and printed: the share
    of the ten nearest rows that it finds. What it finds is compared exactly when it is searched.
    Needs usearch.

    \b
    Examples:
      fusion-engine index embeddings.parquet -o embeddings.usearch
      fusion-engine index windows.parquet -o x.usearch --expansion-search 256
    """
    from ..retrieval.build import build_index
    from ..retrieval.index import sidecar_of

    check_writable(output, [table])
    check_writable(sidecar_of(output), [table])
    with phase_bars() as show:
        info = build_index(
            table,
            output,
            metric=metric,
            connectivity=connectivity,
            expansion_add=expansion_add,
            expansion_search=expansion_search,
            threads=threads,
            progress=show,
        )
    print_message(
        f"{output}: {counted(info.rows, 'row')} of {info.dim}, {info.size / 1e6:.1f} MB, recall@10 "
        f"{info.recall_at_10:.3f} against exact search, of {counted(info.recall_queries, 'row')}"
    )
