"""Progress of long probing: bars on a terminal, lines in a log, results as they come."""

import sys
import time
from collections.abc import Callable
from typing import Self

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .._app import _stderr, go_on, print_message
from .._plain import PlainProgress

# A training's epochs and an embedding's windows come unevenly: the speed is that of minutes.
_SPEED_SECONDS = 300.0


class Bars:
    """A bar for each phase that is going on, and one for the results, on stderr.

    Where stderr is no terminal, a line with the phase every 30 s; ``clock`` gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        self._progress = Progress(
            *columns,
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=_stderr,
            disable=not _stderr.is_terminal,
            transient=True,
            # Standard output may be a file: what is written to it must not go to the bars.
            redirect_stdout=False,
            speed_estimate_period=_SPEED_SECONDS,
        )
        self._phases: dict[str, TaskID] = {}
        self._results = self._done = 0
        self._overall: TaskID | None = None
        self._plain = PlainProgress(self._speak, clock)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def expect(self, results: int) -> None:
        """Tell how many results there will be."""
        self._results = results
        if results > 1:
            self._overall = self._progress.add_task("results", total=results)

    def show(self, phase: str, step: int, steps: int) -> None:
        """Tell that ``step`` of a phase's ``steps`` are done."""
        go_on()
        if not _stderr.is_terminal:
            self._plain.show(phase, step, steps)
            return
        if step >= steps:
            if phase in self._phases:
                self._progress.remove_task(self._phases.pop(phase))
        elif phase not in self._phases:
            self._phases[phase] = self._progress.add_task(phase, total=steps, completed=step)
        else:
            task = self._phases[phase]
            if step and not self._progress.tasks[self._progress.task_ids.index(task)].completed:
                # What was kept from an earlier run is there at once, and tells nothing of the rest.
                self._progress.reset(task, completed=step)
            self._progress.update(task, completed=step)

    def result(self, line: str, *, output: bool = False) -> None:
        """Tell a result as soon as it is there: on stderr, or on standard output."""
        if output:
            # The bars out of its way: both may be one terminal.
            self._progress.stop()
            typer.echo(line)
            sys.stdout.flush()
            self._progress.start()
        else:
            print_message(line)
        self._done += 1
        if self._overall is not None:
            self._progress.update(self._overall, completed=self._done)

    def _speak(self, line: str) -> None:
        if self._results > 1:
            line += f"; {self._done} of {self._results} results"
        print_message(line)
