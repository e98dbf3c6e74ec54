"""A Ray dataset of embeddings."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..audio import Channel, find_audio
from ..audio.folders import Found
from ..errors import AudioError
from ..named import is_name
from ..output import Dtype, check_dtype
from ..spec import Head
from .embedder import ERRORS, REFUSED, Errors, RayEmbedder, Wanted
from .library import import_ray

if TYPE_CHECKING:
    from ray.data import Dataset

    from ..engine.windows import Tail


def embed(
    source: "Dataset | str | os.PathLike[str] | Iterable[str | os.PathLike[str]]",
    artifact: str | os.PathLike[str],
    *,
    window: float | None = None,
    hop: float | None = None,
    tail: "Tail" = "half",
    head: Head | None = None,
    channel: Channel = "mix",
    partial: bool = False,
    dtype: Dtype = "float32",
    normalization: tuple[float, float] | None = None,
    errors: Errors = "column",
    batch_size: int = 64,
    concurrency: int | tuple[int, int] | None = None,
    num_cpus: int = 1,
    num_gpus: float = 0,
    memory_limit: int | None = None,
) -> "Dataset":
    """Embed recordings on a Ray cluster: rows as ``fusion-engine embed`` writes them.

    Nothing runs until the dataset is consumed, by ``fusion_engine.ray.write`` or a method of its
    own. Each actor opens the artifact once. A batch whose node is lost is done again on another.

    Args:
        source: a folder, which is searched here for audio files; files and folders; or a dataset
            with a column ``path``, and if it is of parts of recordings ``start`` and ``end`` in
            seconds, where null means its start or its end. Other columns are left out. Every node
            must see the files under the same paths; relative ones start at this process's working
            directory.
        artifact: its path, the same on every node; or a name such as ``cnn14-fusion``, which each
            node exports into its own cache.
        window: as for ``Engine.embed_stream``, and the next three.
        hop: in seconds, as ``window``.
        tail: what becomes of the samples after the last whole window.
        head: pooling over time; ``None``: the artifact's.
        channel: ``mix``, ``first``, a number from 1 on, or ``all``: a row for each.
        partial: of files that are damaged or contradict themselves, embed what is there.
        dtype: of the embeddings, ``float32`` or ``float16``.
        normalization: as for ``Engine``.
        errors: of what cannot be embedded. ``column``: a row with its path, its ``start`` and
            ``end`` if they were given, and the reason in a last column ``error``, which is null in
            all other rows. ``raise``: the first ends the job, and there is no such column.
        batch_size: files, or parts of files, of one call.
        concurrency: how many actors, or the least and the most; ``None``: as many as there is room
            for.
        num_cpus: CPUs that Ray reserves for an actor, and the engine's threads.
        num_gpus: GPUs, or the share of one, that Ray reserves for an actor. With 0 it runs on the
            CPU, else on the GPU, or fails.
        memory_limit: bytes of GPU memory for an actor's buffers, as for ``Engine``.

    Returns:
        A dataset whose blocks are Arrow tables with the columns, types and metadata of
        ``fusion_engine.output.open_writer``'s Parquet. The rows of a recording, or of a part, are
        together and in order; otherwise they are in no order.

    Raises:
        AudioError: no audio files; with ``errors="raise"`` also a folder that cannot be searched.
        BackendError: Ray Data is not installed.
        ValueError: an argument out of range, or a dataset without ``path``.
    """
    ray = import_ray()
    check_dtype(dtype)
    if errors not in ERRORS:
        raise ValueError(f"errors is {errors!r}, expected one of {list(ERRORS)}")
    least = {"batch_size": batch_size, "num_cpus": num_cpus}
    for name, value in least.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if num_gpus < 0:
        raise ValueError(f"num_gpus is {num_gpus}, expected 0 or more")
    wanted = Wanted(
        window=window,
        hop=hop,
        tail=tail,
        head=head,
        channel=channel,
        partial=partial,
        dtype=dtype,
        normalization=normalization,
    )
    if not isinstance(source, ray.data.Dataset):
        source = listed(_find(source, errors), batch_size)
    artifact = os.fspath(artifact)
    return source.map_batches(
        RayEmbedder,
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=_pool(ray, concurrency),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        fn_constructor_args=(
            artifact if is_name(artifact) else os.path.abspath(artifact),  # noqa: PTH100
            wanted,
        ),
        fn_constructor_kwargs={
            "errors": errors,
            "base": os.getcwd(),  # noqa: PTH109
            "device": "cuda" if num_gpus else "cpu",
            "threads": num_cpus,
            "memory_limit": memory_limit,
        },
    )


def listed(found: Found, batch_size: int) -> "Dataset":
    """Files, or parts of files, and folders that failed, in blocks of a batch."""
    import pyarrow as pa

    ray = import_ray()
    rows: list[dict[str, Any]] = [
        {"path": os.fsencode(path), REFUSED: str(reason)} for path, reason in found.failures
    ]
    if found.listed:
        rows += [
            {"path": os.fsencode(entry.path), "start": entry.start, "end": entry.end}
            for entry in found.listed
        ]
    else:
        rows += [{"path": os.fsencode(path)} for path in found.paths]
    types = {"path": pa.binary(), "start": pa.float64(), "end": pa.float64(), REFUSED: pa.string()}
    table = pa.Table.from_pylist(rows, schema=pa.schema(types))
    return ray.data.from_arrow(
        [table.slice(first, batch_size) for first in range(0, len(table), batch_size)]
    )


def _find(source: Any, errors: Errors) -> Found:
    """The files that are meant.

    Raises:
        AudioError: none, or a folder that failed where that is to be raised.
    """
    found = find_audio([source] if isinstance(source, str | os.PathLike) else source)
    if found.failures and (errors == "raise" or not found.paths):
        raise AudioError("\n".join(str(reason) for _, reason in found.failures))
    if not found.paths:
        raise AudioError("got no files and folders, expected at least one")
    return found


def _pool(ray: Any, concurrency: int | tuple[int, int] | None) -> Any:
    match concurrency:
        case None:
            return ray.data.ActorPoolStrategy()
        case int():
            return ray.data.ActorPoolStrategy(size=concurrency)
        case least, most:
            return ray.data.ActorPoolStrategy(min_size=least, max_size=most)
