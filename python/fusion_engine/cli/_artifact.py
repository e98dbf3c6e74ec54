"""The ARTIFACT argument where a name does as well as a path."""

import time

import typer

from ..named import EXPORT_STEPS, is_name, named_artifact
from ._app import print_message, step_bar


def check_weights(artifact: str, weights: str | None) -> None:
    """Refuse ``--weights`` beside a path.

    Raises:
        BadParameter: it was given.
    """
    if weights is not None and not is_name(artifact):
        raise typer.BadParameter(
            f"{artifact} is a path, and an artifact has its weights inside: leave --weights out, "
            "or give a name that `fusion-engine models` lists",
            param_hint="'--weights'",
        )


def find_artifact(artifact: str, weights: str | None) -> str:
    """A path as it is, or that of a name; where one is exported, stderr says to where and how long.

    Raises:
        FusionEngineError: as ``named_artifact``.
    """
    if not is_name(artifact):
        return artifact
    started = 0.0
    with step_bar(artifact, steps=EXPORT_STEPS - 1) as step:

        def show(text: str) -> None:
            nonlocal started
            if not started:
                started = time.perf_counter()
                print_message(f"{artifact}: exporting it into the cache, once")
            step(text)

        path = named_artifact(artifact, weights=weights or "pretrained", progress=show)
    if started:
        seconds = time.perf_counter() - started
        print_message(f"{artifact}: exported and certified in {seconds:.1f} s: {path}")
    return str(path)
