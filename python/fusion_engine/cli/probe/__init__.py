"""``fusion-engine probe``: linear evaluation."""

import typer

from ..._install import install
from .._app import app

probe = typer.Typer(
    help="Evaluate embeddings with linear probes, as in the paper.",
    epilog="Every COMMAND has a --help of its own. Needs PyTorch: " + install("probe"),
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(probe, name="probe")

# Importing a module registers its command; this is also the order in `--help`.
from . import run, layers, report, compare, tasks  # noqa: E402  # isort: skip

_COMMANDS = (run, layers, report, compare, tasks)
