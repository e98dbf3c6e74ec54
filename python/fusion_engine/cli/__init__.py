"""The command ``fusion-engine``. Results go to files or stdout, messages to stderr."""

import sys
import traceback

from ..errors import FusionEngineError
from ._app import app, settings, stderr

# Importing a module registers its command; this is also the order in `--help`.
from . import export, embed, info, models, doctor  # isort: skip

__all__ = ["app", "main"]

_COMMANDS = (export, embed, info, models, doctor)


def main() -> None:
    """Run the command line; exit status 0 done, 1 an explained error, 2 wrong usage."""
    try:
        app()
    except FusionEngineError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        stderr.print("interrupted")
        sys.exit(130)
    except (MemoryError, OSError, TypeError, ValueError) as error:
        _fail(f"{type(error).__name__}: {error}")


def _fail(message: str) -> None:
    if settings.debug:
        traceback.print_exc()
    stderr.print("[red]error:[/red] ", end="")
    stderr.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)
