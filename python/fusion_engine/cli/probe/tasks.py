"""``fusion-engine probe tasks``."""

from typing import Annotated

import typer

from .._app import print_fields
from ._app import probe


@probe.command()
def tasks(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Only these; all by default.")
    ] = None,
) -> None:
    """List the tasks, with the size and the folders of their data.

    Your own task is a CSV with the columns file_name and label, and split or fold if you have one
    (--csv), or a folder with a folder of audio for each class (--folder).

    \b
    Examples:
      fusion-engine probe tasks
      fusion-engine probe tasks esc50 gtzan
    """
    from ...probe.tasks import TASKS, task_names

    chosen = [part for name in names or TASKS for part in task_names(name)]
    for name in dict.fromkeys(chosen):
        info = TASKS[name]
        count = "as many as were downloaded" if info.examples is None else f"{info.examples}"
        typer.echo(f"{name}: {info.title}")
        print_fields(
            [
                ("classes", f"{info.classes}"),
                ("clips", f"{count}, cropped or padded to {info.seconds:g} s"),
                ("split", info.protocol),
                ("get it from", f"{info.homepage}, {info.size}"),
                ("layout", info.layout),
            ],
            indent="  ",
        )
