"""``fusion-engine probe``: linear evaluation."""

# Importing a module registers its command; this is also the order in `--help`.
from . import run, layers, report, compare, tasks  # isort: skip

_COMMANDS = (run, layers, report, compare, tasks)
