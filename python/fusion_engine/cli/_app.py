"""The application object that the commands register with, and what they share."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .._version import __version__

stdout = Console()
stderr = Console(stderr=True)


@dataclass
class Settings:
    """Options given before the command."""

    debug: bool = False


settings = Settings()

app = typer.Typer(
    name="fusion-engine",
    help="Audio to general-purpose embeddings: export a pre-trained model with the layers you "
    "choose, and embed files with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fusion-engine {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what was chosen and why.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    settings.debug = debug
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    handler = RichHandler(console=stderr, show_time=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("fusion_engine").setLevel(level)


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator["Bar"]:
    """A progress bar on stderr, invisible when that is no terminal."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    times = [TimeElapsedColumn(), TimeRemainingColumn()]
    with Progress(
        *columns, *times, console=stderr, disable=not stderr.is_terminal, transient=True
    ) as progress:
        yield Bar(progress, progress.add_task(description, total=total))


@dataclass(frozen=True)
class Bar:
    """One line of progress."""

    progress: Progress
    task: int

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` more as done."""
        self.progress.advance(self.task, steps)  # type: ignore[arg-type]  # rich's TaskID is an int

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self.progress.console.print(message, markup=False, highlight=False, soft_wrap=True)
