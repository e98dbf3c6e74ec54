"""The application that Ray's HTTP proxy hands requests to: paths, limits, retries, figures.

It neither decodes nor parses: a body goes as it came to a replica of the embedder, which gives the
answer's bytes. So it is thin, and one of it is enough for the embedders of a cluster.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .metrics import Metrics
from .options import Limits
from .reply import Reply, RequestError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

JSON = "application/json"
# To a replica that is lost a request is given no third time: it may be what ends them.
_ATTEMPTS = 2
# Seconds for which the state of the replicas is believed.
_STATE_SECONDS = 1.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is said of the model.

    Attributes:
        name: what requests call it.
        space: digest of its embedding space.
        dim: D.
        sample_rate: in Hz; recordings of any rate are taken.
        created: when the service was started, in seconds since 1970.
    """

    name: str
    space: str
    dim: int
    sample_rate: int
    created: int

    def to_dict(self) -> dict[str, Any]:
        """As ``/v1/models`` shows it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "fusion_engine",
            "embedding_space": self.space,
            "embedding_dim": self.dim,
            "sample_rate": self.sample_rate,
        }


class Front:
    """The ingress of the Serve application.

    Args:
        embedder: handle of the deployment whose replicas are ``Embedder``.
        card: of the model.
        limits: of requests.
    """

    def __init__(self, embedder: Any, card: Card, limits: Limits) -> None:
        self._embedder, self._card, self._limits = embedder, card, limits
        self._metrics = Metrics()
        self._pending = self._held = 0
        self._draining = False
        self._state: tuple[float, int] = (-_STATE_SECONDS, 0)

    async def drain(self, seconds: float) -> int:
        """Take no more requests, and wait for those under way.

        Returns:
            How many have no answer after ``seconds``.
        """
        self._draining = True
        end = time.monotonic() + seconds
        while self._pending and time.monotonic() < end:
            await asyncio.sleep(_POLL_SECONDS)
        return self._pending

    def __serve_build_asgi_app__(self) -> Any:
        """What Ray Serve calls for the application."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/healthz", self._healthz),
                Route("/metrics", self._show_metrics),
            ],
            exception_handlers={404: _unknown_path, 405: _wrong_method},
        )

    async def _embeddings(self, request: "Request") -> "Response":
        with self._metrics.request() as replies:
            self._pending += 1
            try:
                reply = await self._reply(request)
            finally:
                self._pending -= 1
            replies.append(reply)
        return _response(reply)

    async def _reply(self, request: "Request") -> Reply:
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            held += size
            self._held += size
            self._metrics.holds(self._held)

        try:
            if self._draining:
                raise RequestError(503, "draining", "the service is being stopped")
            async with asyncio.timeout(self._limits.request_seconds):
                body = await self._read(request, hold)
                return await self._ask(request.headers.get("content-type", ""), body)
        except RequestError as error:
            return error.reply()
        except TimeoutError:
            return RequestError(
                504,
                "timeout",
                f"no answer within {self._limits.request_seconds:g} s; send less audio at once, or "
                "raise --timeout",
            ).reply()
        finally:
            hold(-held)

    async def _read(self, request: "Request", hold: Callable[[int], None]) -> bytes:
        """The body, as far as there is room.

        Raises:
            RequestError: 400, 413 or 429.
        """
        most = self._limits.body_bytes
        too_large = RequestError(
            413,
            "body_too_large",
            f"the body is larger than {most} bytes; send fewer or shorter recordings",
        )
        try:
            if int(request.headers.get("content-length", 0)) > most:
                raise too_large
        except ValueError:
            raise RequestError(400, "invalid_header", "Content-Length is no number") from None
        parts, size = list[bytes](), 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise too_large
            if self._held + len(part) > self._limits.held_bytes:
                raise RequestError(
                    429,
                    "overloaded",
                    f"requests that wait for an answer hold {self._limits.held_bytes} bytes; try "
                    "again",
                )
            hold(len(part))
            parts.append(part)
        return b"".join(parts)

    async def _ask(self, content_type: str, body: bytes) -> Reply:
        """The answer of a replica, or of another one where the first is lost.

        Raises:
            RequestError: 429, 500 or 503.
        """
        from ray import exceptions as lost
        from ray.serve import exceptions as serve

        for attempt in range(_ATTEMPTS):
            if attempt:
                self._metrics.retried()
            try:
                answer: Awaitable[Reply] = self._embedder.answer.remote(content_type, body)
                return await answer
            except serve.BackPressureError:
                raise RequestError(
                    429,
                    "overloaded",
                    f"{self._limits.queued} requests wait for a replica already; try again",
                ) from None
            except serve.DeploymentUnavailableError:
                break
            except (
                lost.RayActorError,
                lost.NodeDiedError,
                lost.WorkerCrashedError,
                lost.OutOfMemoryError,
                lost.ObjectLostError,
                serve.ReplicaUnavailableError,
            ):
                continue
            except lost.RayTaskError as error:
                raise RequestError(
                    500, "internal_error", f"the replica failed: {str(error.cause)[:200]}"
                ) from error
        raise RequestError(503, "replica_lost", "the replicas that were asked are gone; try again")

    async def _models(self, _: "Request") -> "Response":
        from starlette.responses import JSONResponse

        return JSONResponse({"object": "list", "data": [self._card.to_dict()]})

    async def _model(self, request: "Request") -> "Response":
        from starlette.responses import JSONResponse

        name = request.path_params["name"]
        if name == self._card.name:
            return JSONResponse(self._card.to_dict())
        return _response(
            RequestError(
                404, "model_not_found", f"no model {name[:40]!r}, expected {self._card.name!r}"
            ).reply()
        )

    async def _healthz(self, _: "Request") -> "Response":
        """200 where a replica can answer, else 503."""
        from starlette.responses import JSONResponse

        replicas = 0 if self._draining else await self._running()
        state = "draining" if self._draining else "ready" if replicas else "no replica"
        return JSONResponse({"status": state, "replicas": replicas}, 200 if replicas else 503)

    async def _running(self) -> int:
        """Replicas that run, as the controller knows."""
        at, replicas = self._state
        if time.monotonic() - at < _STATE_SECONDS:
            return replicas
        replicas = await asyncio.to_thread(_running_replicas)
        self._state = time.monotonic(), replicas
        return replicas

    async def _show_metrics(self, _: "Request") -> "Response":
        from starlette.responses import Response

        return Response(self._metrics.page(), media_type="text/plain; version=0.0.4")


def _running_replicas() -> int:
    from ray import serve

    app = serve.status().applications[serve.get_replica_context().app_name]
    return int(app.deployments["Embedder"].replica_states.get("RUNNING", 0))


def _response(reply: Reply) -> "Response":
    from starlette.responses import Response

    headers = {} if reply.retry_after is None else {"Retry-After": str(reply.retry_after)}
    return Response(reply.body, reply.status, headers, media_type=JSON)


async def _unknown_path(request: "Request", _: Exception) -> "Response":
    paths = "/v1/embeddings, /v1/models, /healthz or /metrics"
    message = f"no path {request.url.path[:80]!r}, expected {paths}"
    return _response(RequestError(404, "not_found", message).reply())


async def _wrong_method(request: "Request", _: Exception) -> "Response":
    message = f"{request.url.path} does not take {request.method}; embeddings are asked for by POST"
    return _response(RequestError(405, "method_not_allowed", message).reply())
