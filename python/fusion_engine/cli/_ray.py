"""``fusion-engine embed --ray``: the work is a Ray cluster's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from .._words import counted
from ..audio.folders import Found
from ..errors import FusionEngineError
from ._app import as_options, print_message
from ._findings import notes

# Files of one task.
_BATCH = 64


def check_cluster_options(output: str, device: str, **unused: Any) -> None:
    """Refuse what a cluster does not do.

    Args:
        output: a folder, or what is refused.
        device: one that every node may have.
        unused: options by name, set where one was given.

    Raises:
        BadParameter: an option that is refused.
    """
    for name, value in unused.items():
        if value:
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"--ray has no use for {option}: leave one of them out")
    if not output.endswith("/"):
        raise typer.BadParameter(
            f"{output} is a file, and the nodes of a cluster write one each: expected FOLDER/",
            param_hint="'--output' / '-o'",
        )
    if device not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(
            f"{device!r}: Ray chooses the GPU, expected auto, cpu or cuda", param_hint="'--device'"
        )


def embed_on_cluster(
    address: str,
    found: Found,
    artifact: str,
    output: str,
    *,
    device: str,
    threads: int | None,
    **wanted: Any,
) -> None:
    """Embed what was found, and write a folder.

    Args:
        address: of the cluster, as ``ray.init`` takes it.
        found: the files.
        artifact: as for ``fusion_engine.ray.embed``.
        output: the folder.
        device: ``auto``, ``cpu`` or ``cuda``; with ``auto`` a GPU each if the cluster has some.
        threads: of an actor; one by default.
        wanted: as for ``fusion_engine.ray.embed``.

    Raises:
        Exit: with 1, something failed.
        FusionEngineError: the cluster cannot be reached, or the job failed.
    """
    from ..ray import embed, write
    from ..ray.dataset import listed

    with _connected(address) as ray:
        on_gpu = device == "cuda" or (device == "auto" and "GPU" in ray.cluster_resources())
        nodes = sum(node["Alive"] for node in ray.nodes())
        print_message(f"{counted(nodes, 'node')}, embedding on {'GPUs' if on_gpu else 'CPUs'}")
        dataset = embed(
            listed(found, _BATCH),
            artifact,
            batch_size=_BATCH,
            num_cpus=threads or 1,
            num_gpus=int(on_gpu),
            **wanted,
        )
        written = write(dataset, output)
    if written.rows:
        print_message(f"{output}: {counted(written.rows, 'embedding')}")
    for line in notes(found):
        print_message(line)
    if written.failures:
        for _, reason in written.failures:
            print_message(f"failed: {as_options(reason)}")
        errors = f"{output.rstrip('/')}.errors.jsonl"
        print_message(f"{counted(len(written.failures), 'input')} failed: {errors}")
        raise typer.Exit(1)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """The module ``ray``, connected to a cluster.

    Raises:
        FusionEngineError: there is none at this address.
    """
    from ..ray.library import import_ray

    ray = import_ray()
    try:
        ray.init(address=address)
    except (ConnectionError, ValueError) as error:
        raise FusionEngineError(
            f"no Ray cluster at {address}: {error}; expected auto, the HOST:PORT of its head, or "
            "local; start one with `ray start --head`"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
