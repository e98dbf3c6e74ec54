"""The application object that the commands register with, and what they share."""

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from typer.core import TyperGroup

from .._atomic import atomic_path, refuse_inputs
from .._version import __version__
from ._plain import PlainProgress

# Not rich's own guess, which FORCE_COLOR overrides: no bar in a log file. Interactive, or rich
# before 14.3 ends a bar that is not shown with an empty line.
_stderr = Console(
    stderr=True,
    force_terminal=sys.stderr is not None and sys.stderr.isatty(),
    force_interactive=True,
)

_ANYWHERE = ("--debug", "--verbose", "-v")


@dataclass
class Settings:
    """What holds for the whole program: options, and the signal that ends it."""

    debug: bool = False
    stopped: int | None = None


settings = Settings()


def go_on() -> None:
    """End the work if a signal asked for it.

    Its handler does, but what it raises is dropped in a finaliser, or in an import that a C
    extension tries. So long work comes by here at every step of its progress.
    """
    # A builder's own thread is stopped by the main one.
    if settings.stopped is None or threading.current_thread() is not threading.main_thread():
        return
    if settings.stopped == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + settings.stopped)


class _Group(TyperGroup):
    """Takes the options of the whole program after the command's name too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        before, after = args[:end], args[end:]
        general = [arg for arg in before if arg in _ANYWHERE]
        return super().parse_args(
            ctx, general + [arg for arg in before if arg not in _ANYWHERE] + after
        )

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            # How the library that typer checks values with begins what typer says.
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="fusion-engine",
    cls=_Group,
    help="General-purpose audio embeddings: export a pre-trained model with the layers you choose, "
    "then embed files with it.",
    epilog="Exit status: 0 done, 1 an error that was explained, 2 wrong usage. "
    "Every COMMAND has a --help of its own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain text: examples stay as they are written, and nothing in brackets is taken for markup.
    rich_markup_mode=None,
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
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_Messages()])
    logging.getLogger("fusion_engine").setLevel(level)


class _Messages(logging.Handler):
    """What the library logs, as messages on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        print_message(f"{record.levelname.lower()}: {self.format(record)}")


def print_message(message: str) -> None:
    """A line on stderr, above a progress bar; not wrapped, and nothing in it is markup."""
    _stderr.print(Text(message), soft_wrap=True)


def print_step(message: str) -> None:
    """What goes on, for people who wait: only where stderr is a terminal."""
    if _stderr.is_terminal:
        print_message(message)


def print_error(message: str) -> None:
    """The message that ends a command."""
    _stderr.print(Text.assemble(("error: ", "red"), as_options(message)), soft_wrap=True)


def as_options(message: str) -> str:
    """A message of the library, with its Python arguments as options of the command line."""
    return re.sub(r"\b(device|head)='([^']*)'", r"--\1 \2", message)


def print_fields(fields: Iterable[tuple[str, str]], indent: str = "") -> None:
    """Names and values on stdout, one below the other; values may have several lines.

    No table: its cells would be wrapped or cut to the terminal's width.
    """
    fields = list(fields)
    width = max(len(name) for name, _ in fields) + 2
    for name, value in fields:
        for line in value.splitlines():
            typer.echo(f"{indent}{name:{width}}{line}".rstrip())
            name = ""


def output_path(*suffixes: str) -> Callable[[Path | None], Path | None]:
    """Callback of an option that names a file to write: its suffix says the format."""

    def check(path: Path | None) -> Path | None:
        if path is not None and path.suffix.lower() not in suffixes:
            raise typer.BadParameter(f"{path} must end in {' or '.join(suffixes)}")
        return path

    return check


class _Writable(Exception):
    """Ends the writing of a file before anything is written."""


def check_writable(path: Path, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Refuse a file that cannot be written, or is one of ``inputs``, before the work for it.

    Raises:
        FusionEngineError: it cannot be written.
    """
    refuse_inputs(path, inputs)
    with suppress(_Writable), atomic_path(path):
        raise _Writable


def _plain_progress() -> Callable[[str, int, int], None]:
    """Shows steps in lines, where stderr is no terminal."""
    return (lambda *_: None) if _stderr.is_terminal else PlainProgress(print_message).show


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, or lines where that is no terminal; gives what advances it."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    times = [TimeElapsedColumn(), TimeRemainingColumn()]
    with Progress(
        *columns, *times, console=_stderr, disable=not _stderr.is_terminal, transient=True
    ) as progress:
        task: TaskID = progress.add_task(description, total=total)
        show, done = _plain_progress(), 0
        show(description, done, total)

        def advance(steps: int) -> None:
            nonlocal done
            go_on()
            done += steps
            progress.advance(task, steps)
            show(description, done, total)

        yield advance


@contextmanager
def phase_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each phase that is going on, on stderr; lines where that is no terminal.

    Gives the function to call with a phase, how many of its steps are done, and how many it has.
    """
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=_stderr,
        disable=not _stderr.is_terminal,
        transient=True,
    ) as progress:
        tasks = dict[str, TaskID]()
        show_plain = _plain_progress()

        def show(phase: str, step: int, steps: int) -> None:
            go_on()
            show_plain(phase, step, steps)
            if step < steps:
                if phase not in tasks:
                    tasks[phase] = progress.add_task(phase, total=steps)
                progress.update(tasks[phase], completed=step)
            elif phase in tasks:
                progress.remove_task(tasks.pop(phase))

        yield show


@contextmanager
def step_bar(label: str, steps: int) -> Iterator[Callable[[str], None]]:
    """A line for each step of long work, with a bar below from the second one on.

    The first may be a download, which has a bar of its own.
    """
    with ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        started = 0

        def step(text: str) -> None:
            nonlocal advance, started
            go_on()
            if started == 1:
                advance = stack.enter_context(progress_bar(label, steps))
            if advance is not None:
                advance(1)
            started += 1
            print_step(f"{label}: {text} …")

        yield step
