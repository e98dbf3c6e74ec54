"""The group that the commands of ``fusion-engine probe`` register with."""

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
