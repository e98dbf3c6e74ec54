"""The Serve application: one front, and replicas that embed."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..artifact import read_spec
from ..named import is_name, named_artifact
from .embedder import Embedder
from .front import Card, Front
from .library import import_serve
from .options import Batching, Limits

# Requests at a replica at once: a batch that is run, and one that is collected and decoded.
_BATCHES_AT_ONCE = 2
# What the front has open at once; more wait in the proxy.
_OPEN_REQUESTS = 4096
# How soon a replica that died in silence is missed.
_HEALTH_SECONDS = 2.0


def application(
    artifact: str | os.PathLike[str],
    *,
    model: str | None = None,
    device: str = "cpu",
    threads: int = 1,
    replicas: int = 1,
    autoscaling: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    batching: Batching | None = None,
    drain_seconds: float = 30.0,
) -> Any:
    """The service as a Ray Serve application, for ``serve.run`` or a module of ``serve deploy``.

    Args:
        artifact: its path, the same on every node; or a name such as ``cnn14-fusion``, which each
            node exports into its own cache.
        model: what requests call it; ``None``: the artifact's name without its suffix.
        device: ``cpu``, or ``cuda``: each replica has a GPU of its own.
        threads: of a replica: the CPUs that Ray reserves for it, and the engine's threads.
        replicas: how many, where there is no ``autoscaling``.
        autoscaling: fields of Ray Serve's ``AutoscalingConfig``, such as ``min_replicas`` and
            ``max_replicas``. ``target_ongoing_requests`` is a batch where it does not say.
        limits: of requests.
        batching: of clips.
        drain_seconds: that a replica which is stopped has for the requests it was given.

    Returns:
        A ``ray.serve.Application``.

    Raises:
        ArtifactError: the artifact has no spec.
        BackendError: Ray Serve is not installed.
        ExportError, WeightsError: a name whose export or download failed.
        ValueError: an argument out of range, or an autoscaling field that Ray does not know.
    """
    _, serve = import_serve()
    limits, batching = limits or Limits(), batching or Batching()
    for name, value in {"threads": threads, "replicas": replicas}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}: Ray chooses the GPU, expected cpu or cuda")
    path = named_artifact(artifact)
    spec = read_spec(path)
    card = Card(
        name=model or (str(artifact) if is_name(artifact) else Path(path).stem),
        space=spec.space,
        dim=spec.embedding_dim,
        sample_rate=spec.frontend.sample_rate,
        created=int(time.time()),
    )
    scaling: dict[str, Any] = {"num_replicas": replicas}
    if autoscaling is not None:
        scaling = {"autoscaling_config": _checked(autoscaling, batching)}
    embedder = serve.deployment(
        Embedder,
        name="Embedder",
        max_ongoing_requests=_BATCHES_AT_ONCE * batching.clips,
        max_queued_requests=limits.queued,
        health_check_period_s=_HEALTH_SECONDS,
        graceful_shutdown_timeout_s=drain_seconds,
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": threads, "num_gpus": int(device == "cuda")},
        **scaling,
    ).bind(
        str(artifact) if is_name(artifact) else os.path.abspath(path),  # noqa: PTH100
        card.name,
        device=device,
        threads=threads,
        limits=limits,
        batching=batching,
    )
    front = serve.deployment(
        serve.ingress()(Front),
        name="Front",
        num_replicas=1,
        max_ongoing_requests=_OPEN_REQUESTS,
        graceful_shutdown_timeout_s=drain_seconds,
        ray_actor_options={"num_cpus": 0},
    )
    return front.bind(embedder, card, limits)


def _checked(autoscaling: Mapping[str, Any], batching: Batching) -> dict[str, Any]:
    """Autoscaling options, as Ray takes them.

    Raises:
        ValueError: it does not.
    """
    from ray.serve.config import AutoscalingConfig

    # Ray's own default would start a replica before a batch is full.
    options = {"target_ongoing_requests": batching.clips, **autoscaling}
    unknown = sorted(options.keys() - AutoscalingConfig.model_fields.keys())
    if unknown:
        known = ", ".join(name for name in AutoscalingConfig.model_fields if name[0] != "_")
        raise ValueError(f"autoscaling has no option {unknown[0]!r}, expected some of {known}")
    AutoscalingConfig(**options)
    return options
