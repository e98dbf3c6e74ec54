"""The command ``fusion-engine``. Results go to files or stdout, messages to stderr."""

import io
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

from ..errors import FusionEngineError
from ._app import app, go_on, print_error, settings

# Importing a module registers its command; this is also the order in `--help`.
from . import export, quantize, build, embed, search, index, map, serve  # isort: skip
from . import info, parity, models, doctor, triton, probe  # isort: skip

__all__ = ["app", "main"]

_COMMANDS = (
    export,
    quantize,
    build,
    embed,
    search,
    index,
    map,
    serve,
    info,
    parity,
    models,
    doctor,
    triton,
    probe,
)


def main() -> None:
    """Run the command line.

    Exit status: 0 done, 1 an error that was explained, 2 wrong usage, and 128 + N after signal N
    (130 for Ctrl-C), when nothing half-written is left either.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # `nohup` ignores SIGHUP, and that stays.
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names need not be text.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run()
    except BaseException:
        # Whatever became of the signal's own exception: libraries turn it into an ImportError.
        if settings.stopped is not None:
            raise SystemExit(128 + settings.stopped) from None
        raise


def _run() -> None:
    try:
        app(prog_name="fusion-engine")  # also under `python -m`
    except FusionEngineError as error:
        _fail(str(error))
    except MemoryError as error:
        _fail(f"out of memory: {str(error) or 'an allocation failed'}")
    except OSError as error:
        reason = error.strerror or str(error)
        _fail(reason if error.filename is None else f"{error.filename}: {reason}")
    except Exception as error:
        _fail(
            f"{type(error).__name__}: {error}\nThis is a bug in fusion_engine. Run the same "
            "command with --debug for the traceback, and report it with that."
        )


def _fail(message: str) -> NoReturn:
    if settings.debug:
        traceback.print_exc()
    if settings.stopped is None:
        print_error(message)
    sys.exit(1)


def _stop(number: int, _: FrameType | None) -> None:
    settings.stopped = number
    go_on()
