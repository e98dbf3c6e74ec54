"""``fusion-engine search``."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ._app import app, progress_bar
from ._artifact import find_artifact

if TYPE_CHECKING:
    from rich.table import Table

    from ..retrieval import Match

# What is left of a narrow terminal beside the columns of numbers.
_LEAST_PATH = 20
_GAP = 3


@app.command()
def search(
    table: Annotated[
        Path,
        typer.Argument(metavar="TABLE", help="The .parquet, .npz, .csv or folder of `embed`."),
    ],
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY",
            help="PATH of a file, PATH@A-B of a part of it (s), row:PATH, row:PATH@A-B or row:#N.",
        ),
    ],
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            "-e",
            metavar="ARTIFACT",
            help="The artifact, or the name, that made the table; queries that are files need it.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, metavar="N", help="How many to show.")] = 10,
    metric: Annotated[Literal["cosine", "l2"], typer.Option(help="How near two are.")] = "cosine",
    index: Annotated[
        Path | None,
        typer.Option(
            metavar="X.usearch",
            help="Search in an index of `fusion-engine index`: fast, and may miss a row.",
        ),
    ] = None,
    include_self: Annotated[
        bool, typer.Option("--include-self", help="A row may find itself.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each query, one a line.")
    ] = False,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="Of the engine: auto, cpu, cuda or cuda:N.")
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="CPU threads of the engine; every core by default."),
    ] = None,
) -> None:
    """Find the clips of a table nearest to a file or to a row.

    Without --index all rows are compared, and the answer is exact. A file is embedded by the
    artifact that made the table, with the table's head and normalisation; one of another embedding
    space is refused. A row is not found by itself. Times are in seconds of the recording.

    \b
    Examples:
      fusion-engine search embeddings.parquet clip.wav -e cnn14_3_6.onnx
      fusion-engine search windows.parquet day.wav@3.5-6 -e cnn14_3_6.onnx -k 5
      fusion-engine search embeddings.parquet row:recordings/a.wav --json
    """
    from ..retrieval.matches import search as search_table
    from ..retrieval.queries import open_engine
    from ..table_reader import open_table

    opened = open_table(table)
    with ExitStack() as stack:
        embedding = None
        if engine is not None and not all(query.startswith("row:") for query in queries):
            artifact = find_artifact(engine, None)
            try:
                embedding = open_engine(artifact, opened, device=device, threads=threads)
            except ValueError as error:
                raise typer.BadParameter(str(error)) from None
            stack.enter_context(embedding)
        advance: Callable[[int], None] = lambda rows: None  # noqa: E731 - an index takes no time
        if index is None:
            advance = stack.enter_context(progress_bar("Searching", len(opened.rows)))
        try:
            found = search_table(
                opened,
                queries,
                k,
                metric=metric,
                engine=embedding,
                index=index,
                include_self=include_self,
                progress=advance,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    for number, (query, matches) in enumerate(zip(queries, found, strict=True)):
        if as_json:
            typer.echo(_json(query, metric, index is None, matches))
        else:
            _print(query, matches, blank=number > 0)


def _json(query: str, metric: str, exact: bool, matches: "list[Match]") -> str:
    rows = [
        {name: value for name, value in asdict(match).items() if value is not None}
        for match in matches
    ]
    return json.dumps({"query": query, "metric": metric, "exact": exact, "matches": rows})


def _print(query: str, matches: "list[Match]", *, blank: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if blank:
        console.print()
    console.print(Text(_printable(query), "bold"), soft_wrap=True)
    if not console.is_terminal:
        # A file or a pipe takes whole paths.
        console.width = 100 + max((4 * len(_printable(m.path)) for m in matches), default=0)
    console.print(_table(matches, console.width))


def _table(matches: "list[Match]", width: int) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    cosine = all(match.distance is None for match in matches)
    channels = any(match.channel is not None for match in matches)
    headings = ["similarity" if cosine else "distance", "start", "end", *["channel"] * channels]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("path", no_wrap=True)
    lines = [_numbers(match, channels) for match in matches]
    columns = zip(headings, *lines, strict=True)
    taken = sum(max(map(len, column)) + _GAP for column in columns)
    for match, line in zip(matches, lines, strict=True):
        path = _ending(_printable(match.path), max(_LEAST_PATH, width - taken))
        table.add_row(*line, Text(path))
    return table


def _numbers(match: "Match", channels: bool) -> list[str]:
    near = f"{match.similarity:.5f}" if match.distance is None else f"{match.distance:.5g}"
    return [near, f"{match.start:.3f}", f"{match.end:.3f}", *([str(match.channel)] * channels)]


def _printable(text: str) -> str:
    """Without what moves the cursor or changes colours."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def _ending(text: str, cells: int) -> str:
    """The end of a path, which is what tells it from its neighbours."""
    from rich.cells import cell_len

    if cell_len(text) <= cells:
        return text
    while cell_len(text) >= cells:
        text = text[1:]
    return f"…{text}"
