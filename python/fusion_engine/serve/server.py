"""Ray, Ray Serve and the application, started and stopped in the right order."""

import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .._cpus import usable_cpus
from ..errors import BackendError, FusionEngineError
from .library import import_serve

APP = "fusion_engine"
# Beside `--timeout`, which answers first and says why.
_PROXY_SECONDS = 30.0
_STORE_BYTES = 2**30


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: its CPUs and GPUs."""

    cpus: int
    gpus: int


def check_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, before Ray is started.

    Raises:
        FusionEngineError: it is another program's, or none of this machine.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the proxy does: connections that have ended are not in the way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        raise FusionEngineError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; give another --port or "
            "--host"
        ) from error


@contextmanager
def connected(address: str | None) -> Iterator[list[Node]]:
    """Ray, for as long as this is entered: a cluster that is there, or one of this process alone.

    The latter listens on the loopback interface only and wants a token that only its processes
    have, since whoever reaches Ray's own ports can run code.

    Args:
        address: of a cluster, as ``ray.init`` takes it; ``None``: start one.

    Raises:
        BackendError: Ray Serve is not installed, or Ray does not start.
        FusionEngineError: no cluster there.
    """
    if address is None:
        # Before Ray is imported, which reads it then: its node's address is 127.0.0.1.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    ray, _ = import_serve()
    own: dict[str, Any] = {
        "num_cpus": usable_cpus(),
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
    }
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level="warning",
            **({} if address else own),
        )
    except (ConnectionError, ValueError) as error:
        raise FusionEngineError(
            f"no Ray cluster at {address}: {error}; expected auto or the HOST:PORT of its head; "
            "start one with `ray start --head`, or leave --address out"
        ) from error
    except RuntimeError as error:
        raise BackendError(f"Ray does not start: {error}") from error
    try:
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield [Node(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in resources]
    finally:
        ray.shutdown()


@contextmanager
def serving(
    application: Any, *, host: str, port: int, timeout: float, address: str | None
) -> Iterator[Callable[[float], int]]:
    """The application behind its address, for as long as this is entered.

    Args:
        application: see ``application``.
        host: where the proxies listen.
        port: where the proxies listen.
        timeout: seconds in which the application answers by itself.
        address: as for ``connected``.

    Yields:
        ``drain(seconds)``: no more requests are taken, those under way are waited for; gives how
        many are left.

    Raises:
        BackendError: the replicas do not start; says why.
        FusionEngineError: Serve runs elsewhere on that cluster.
    """
    ray, serve = import_serve()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Whoever started Serve ends it.
    ours = not _serve_runs(ray)
    try:
        if not ours:
            _check_address(serve, host, port)
        http = {"host": host, "port": port, "request_timeout_s": timeout + _PROXY_SECONDS}
        try:
            if ours:
                serve.start(http_options=http)
            handle = serve.run(application, name=APP, route_prefix="/")
        except Exception as error:
            reason = _why(serve) or str(error).strip().rpartition("\n")[2]
            raise BackendError(f"Ray Serve does not start: {reason}") from error
        yield lambda seconds: int(handle.drain.remote(seconds).result(timeout_s=seconds + 10))
    finally:
        # A cluster of this process ends as a whole, so that nobody is told 404 on the way.
        if address is not None:
            serve.delete(APP)
            if ours:
                serve.shutdown()


def _serve_runs(ray: Any) -> bool:
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def _check_address(serve: Any, host: str, port: int) -> None:
    """Serve's proxies are where they are.

    Raises:
        FusionEngineError: elsewhere.
    """
    from ray.serve.context import _get_global_client

    http = _get_global_client().http_config
    if (http.host, http.port) != (host, port):
        raise FusionEngineError(
            f"Ray Serve runs on this cluster already, at {http.host}:{http.port}, and has one "
            f"address: give --host {http.host} --port {http.port}, or stop it with `serve shutdown`"
        )


def _why(serve: Any) -> str | None:
    """What Serve says of a deployment that did not start, its last line."""
    app = serve.status().applications.get(APP)
    if app is None:
        return None
    for deployment in app.deployments.values():
        lines = deployment.message.strip().splitlines()
        if deployment.status != "HEALTHY" and lines:
            return f"a replica failed: {lines[-1]}"
    return None
