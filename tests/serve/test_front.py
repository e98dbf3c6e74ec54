"""Limits, retries and figures of the front, with a handle of our own."""

import asyncio
import json

import pytest

from fusion_engine.serve import Limits
from fusion_engine.serve.front import Card, Front
from fusion_engine.serve.reply import Reply

pytest.importorskip("starlette", reason="Ray Serve is not installed")
pytest.importorskip("prometheus_client", reason="Ray Serve is not installed")
lost = pytest.importorskip("ray.exceptions", reason="Ray is not installed")

# Ray's own, of pydantic.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CARD = Card(name="cnn14", space="0123", dim=4, sample_rate=16_000, created=1)
OK = Reply(200, b'{"data": []}', audio_seconds=2.5, batches=[3])


class Handle:
    """As a ``DeploymentHandle`` is called; answers in turn, and an exception is raised."""

    def __init__(self, *answers):
        self.answers, self.bodies = list(answers), []

    @property
    def answer(self):
        return self

    async def remote(self, content_type, body):
        self.bodies.append((content_type, body))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return await answer() if callable(answer) else answer


def front_of(*answers, **limits):
    return Front(Handle(*answers), CARD, Limits(**limits))


async def call(front, method="POST", path="/v1/embeddings", parts=(b"{}",), headers=()):
    """Status, headers and body of a request to the application, by the rules of ASGI."""
    sent, waiting = [], list(parts)

    async def receive():
        if not waiting:
            await asyncio.Event().wait()
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    async def send(message):
        sent.append(message)

    given = [(b"content-type", b"application/json"), *headers]
    scope = {"type": "http", "method": method, "path": path, "headers": given}
    scope |= {"query_string": b"", "http_version": "1.1", "root_path": ""}
    await front.__serve_build_asgi_app__()(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:])


def answer(front, **request):
    status, headers, body = asyncio.run(call(front, **request))
    return status, headers, json.loads(body)


def figures(front):
    from prometheus_client.parser import text_string_to_metric_families

    status, headers, page = asyncio.run(call(front, "GET", "/metrics"))
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name.removeprefix("fusion_engine_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_a_body_goes_on_as_it_came():
    front = front_of(OK)
    status, headers, body = answer(front, parts=(b'{"in', b'put": 1}'))
    assert (status, headers["content-type"], body) == (200, "application/json", {"data": []})
    assert front._embedder.bodies == [("application/json", b'{"input": 1}')]
    found = figures(front)
    assert found["requests_total", "200"] == found["request_seconds_count", "200"] == 1
    assert found["audio_seconds_total",] == 2.5
    assert (found["batch_clips_count",], found["batch_clips_sum",]) == (1, 3)
    assert found["requests_pending",] == found["held_bytes",] == 0


def test_a_body_that_is_too_large():
    front = front_of(body_bytes=10)
    for request in (
        {"parts": (b"x" * 6, b"x" * 5)},
        {"parts": (), "headers": [(b"content-length", b"11")]},
    ):
        status, _, body = answer(front, **request)
        assert (status, body["error"]["code"]) == (413, "body_too_large")
    assert answer(front, headers=[(b"content-length", b"-x")])[0] == 400
    assert front._embedder.bodies == []
    assert front._held == 0


def test_bodies_are_held_up_to_a_limit():
    async def main():
        go_on = asyncio.Event()

        async def slow():
            await go_on.wait()
            return OK

        front = front_of(slow, OK, held_bytes=10)
        first = asyncio.create_task(call(front, parts=(b"x" * 8,)))
        while not front._embedder.bodies:
            await asyncio.sleep(0)
        status, headers, body = await call(front, parts=(b"x" * 3,))
        assert (status, headers["retry-after"]) == (429, "1")
        assert json.loads(body)["error"]["code"] == "overloaded"
        go_on.set()
        assert (await first)[0] == 200
        assert (await call(front, parts=(b"x" * 3,)))[0] == 200

    asyncio.run(main())


def gone():
    return lost.ActorDiedError()


def away():
    return lost.ActorUnavailableError("away", b"0" * 16)


@pytest.mark.parametrize("error", [gone, away])
def test_what_a_lost_replica_had_goes_to_another(error):
    front = front_of(error(), OK)
    assert answer(front)[0] == 200
    assert len(front._embedder.bodies) == 2
    assert figures(front)["retries_total",] == 1


def test_not_to_a_third():
    front = front_of(gone(), gone(), OK)
    status, headers, body = answer(front)
    assert (status, body["error"]["code"]) == (503, "replica_lost")
    assert headers["retry-after"] == "1"
    assert len(front._embedder.bodies) == 2


def test_a_full_queue():
    from ray.serve.exceptions import BackPressureError

    status, headers, body = answer(
        front_of(BackPressureError(num_queued_requests=7, max_queued_requests=7), queued=7)
    )
    assert (status, headers["retry-after"]) == (429, "1")
    assert body["error"]["type"] == "overloaded_error"
    assert "7 requests wait" in body["error"]["message"]


def test_an_answer_that_does_not_come():
    async def never():
        await asyncio.Event().wait()

    front = front_of(never, request_seconds=0.05)
    status, _, body = answer(front)
    assert (status, body["error"]["code"]) == (504, "timeout")
    assert front._pending == front._held == 0


def test_a_body_that_does_not_come():
    assert answer(front_of(request_seconds=0.05), parts=())[0] == 504


def test_draining():
    async def main():
        go_on = asyncio.Event()

        async def slow():
            await go_on.wait()
            return OK

        front = front_of(slow)
        first = asyncio.create_task(call(front))
        while not front._embedder.bodies:
            await asyncio.sleep(0)
        assert await front.drain(0.0) == 1
        status, headers, body = await call(front)
        assert (status, json.loads(body)["error"]["code"]) == (503, "draining")
        assert "retry-after" in headers
        status, _, body = await call(front, "GET", "/healthz")
        assert (status, json.loads(body)["status"]) == (503, "draining")
        drained = asyncio.create_task(front.drain(60.0))
        go_on.set()
        assert (await first)[0] == 200
        assert await drained == 0

    asyncio.run(main())


def test_models():
    front = front_of()
    status, _, body = answer(front, method="GET", path="/v1/models")
    (model,) = body["data"]
    assert (status, model["id"], model["embedding_space"]) == (200, "cnn14", "0123")
    assert answer(front, method="GET", path="/v1/models/cnn14")[2] == model
    assert answer(front, method="GET", path="/v1/models/clap")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/embeddings", 405), ("POST", "/v2", 404)]
)
def test_other_paths_and_methods(method, path, status):
    got, _, body = answer(front_of(), method=method, path=path)
    assert got == status
    assert path in body["error"]["message"]
