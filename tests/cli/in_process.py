"""The command line in this process, which is as it was afterwards."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from click.testing import Result
from typer.testing import CliRunner

from fusion_engine.cli import app, settings

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def state_kept() -> Iterator[None]:
    """Put back what commands leave: handlers of signals, the log's level, settings."""
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        settings.debug = False
        settings.stopped = None
        logging.getLogger("fusion_engine").setLevel(logging.NOTSET)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def invoke(*arguments: str | os.PathLike[str]) -> Result:
    """Run a command; its exit status and what it printed."""
    with state_kept():
        return CliRunner().invoke(app, [os.fspath(argument) for argument in arguments])


def run_command(*arguments: str | os.PathLike[str]) -> Any:
    """Run a command; its exit status, and whatever it raises."""
    with state_kept():
        return typer.main.get_command(app).main(
            [os.fspath(argument) for argument in arguments], standalone_mode=False
        )
