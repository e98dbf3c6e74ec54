"""The service as it is run: with Ray, over HTTP, under load, with a replica that is killed."""

import base64
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests

import fusion_engine as fe
from benchmarks import cases_serve
from benchmarks.harness import WrongAnswerError

from ..signals import noise
from .audio import RATE, uri, wav
from .running import PATIENCE, Service

pytest.importorskip("ray.serve", reason="Ray Serve is not installed")
pytest.importorskip("python_multipart", reason="python-multipart is not installed")

CLIENTS, EACH = 32, 6
SECONDS = (0.5, 1.0, 1.0, 1.0, 2.0, 3.0)
MOST_BODY = 2**20
REPLICAS = 2 if len(os.sched_getaffinity(0)) > 1 else 1
# As /proc/net has them: 127.0.0.1, and the same mapped into IPv6.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
# What a client may try again; all else is its own fault.
AGAIN = (429, 503)


@pytest.fixture(scope="module")
def service(cnn14_artifact):
    with tempfile.TemporaryDirectory(
        prefix="fe-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        service = Service(
            cnn14_artifact,
            folder,
            *("--replicas", REPLICAS, "--threads", 1, "--max-body", MOST_BODY / 2**20),
            *("--max-inputs", 16, "--batch-wait", 20),
        )
        try:
            service.wait_until_ready(REPLICAS)
            yield service
        finally:
            service.end()


@pytest.fixture(scope="module")
def recordings(cnn14_artifact):
    """Files' bytes and their embeddings, of the engine alone."""
    engine = fe.Engine(cnn14_artifact, device="cpu", threads=1)
    return [
        (wav(seconds, seed), engine.embed(noise(seconds, RATE, seed)))
        for seed, seconds in enumerate(SECONDS)
    ]


def embeddings(response):
    assert response.status_code == 200, response.text
    return [
        np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
        if isinstance(one["embedding"], str)
        else np.array(one["embedding"], np.float32)
        for one in response.json()["data"]
    ]


def test_a_form_and_json_give_what_the_engine_gives(service, recordings):
    files = [("file", (f"{i}.wav", data)) for i, (data, _) in enumerate(recordings)]
    for got in (
        service.ask(files=files),
        service.ask(files=files, data={"encoding_format": "base64"}),
        service.ask(json={"input": [uri(data) for data, _ in recordings], "model": "cnn14_1"}),
    ):
        for ours, (_, embedding) in zip(embeddings(got), recordings, strict=True):
            np.testing.assert_array_equal(ours, embedding)


def test_the_client_of_openai(service, recordings):
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with openai.OpenAI(base_url=f"{service.address}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["cnn14_1"]
        answer = client.embeddings.create(
            model="cnn14_1", input=[uri(data) for data, _ in recordings]
        )
        for one, (_, embedding) in zip(answer.data, recordings, strict=True):
            np.testing.assert_array_equal(np.array(one.embedding, np.float32), embedding)
        with pytest.raises(openai.UnprocessableEntityError, match="truncated"):
            client.embeddings.create(model="cnn14_1", input=uri(wav()[:-9]))
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="clap", input=uri(wav()))


def test_nobody_else_reaches_rays_own_ports(service):
    """Whoever does can run code: they are on this machine only, or want a token."""
    import grpc
    from ray.serve.generated.serve_pb2 import RequestMetadata
    from ray.serve.generated.serve_pb2_grpc import ASGIServiceStub

    everywhere = [port for address, port in service.listening() if address not in LOOPBACK]
    # Ray Serve's, between its replicas.
    assert len(everywhere) == len(service.replicas()) + 1
    for port in everywhere:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.RpcError) as caught:
                ASGIServiceStub(channel).HandleRequest(RequestMetadata(), timeout=PATIENCE)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_the_benchmark_compares_before_it_times(
    service, cnn14_artifact, two_layers, tmp_path, monkeypatch
):
    monkeypatch.setattr(cases_serve, "FILES", 4)
    monkeypatch.setattr(cases_serve, "REQUESTS", 8)
    monkeypatch.setattr(cases_serve, "WARMUP", 2)
    paths = cases_serve.make_files(tmp_path)
    found = cases_serve.compare(service, cnn14_artifact, paths, 2)
    assert found.keys() == {
        f"{who}_{what}"
        for who in ("served", "direct")
        for what in ("per_second", "p50_ms", "p99_ms")
    }
    assert min(found.values()) > 0
    with pytest.raises(WrongAnswerError):
        cases_serve.compare(service, two_layers, paths, 2)


class Client(threading.Thread):
    """Sends good and bad requests, and tries again what may be tried again."""

    def __init__(self, service, recordings, number):
        super().__init__()
        self._service, self._recordings = service, recordings
        self._random = random.Random(number)
        self.right, self.wrong, self.statuses = 0, [], []

    def run(self):
        for turn in range(EACH):
            try:
                self._send(turn)
            except Exception as error:
                self.wrong.append(f"{type(error).__name__}: {error}")

    def _send(self, turn):
        kind = (turn + self._random.randrange(2)) % EACH
        if kind == 0:
            request, status = self._malformed()
            self._expect(self._answer(request), status)
        elif kind == 1:
            self._expect(self._answer({"files": {"file": ("a", bytes(MOST_BODY + 1))}}), 413)
        else:
            chosen = self._random.choices(self._recordings, k=self._random.choice((1, 1, 3)))
            files = [("file", ("a.wav", data)) for data, _ in chosen]
            got = embeddings(self._answer({"files": files, "data": {"encoding_format": "base64"}}))
            for ours, (_, embedding) in zip(got, chosen, strict=True):
                np.testing.assert_array_equal(ours, embedding)
            self.right += 1

    def _malformed(self):
        return self._random.choice(
            [
                ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400),
                ({"json": {"input": "http://127.0.0.1:1/a.wav"}}, 400),
                ({"json": {"input": uri(b"%PDF-1.7")}}, 415),
                ({"json": {"input": uri(wav()[:-99])}}, 422),
            ]
        )

    def _expect(self, response, status):
        assert response.status_code == status, response.text
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}

    def _answer(self, request):
        deadline = time.monotonic() + PATIENCE
        while True:
            response = self._service.ask(**request)
            self.statuses.append(response.status_code)
            if response.status_code not in AGAIN or time.monotonic() > deadline:
                return response
            assert response.json()["error"]["code"] in ("overloaded", "replica_lost")
            time.sleep(float(response.headers["Retry-After"]))


def test_load_and_a_replica_that_is_killed(service, recordings):
    clients = [Client(service, recordings, number) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    while sum(client.right for client in clients) < CLIENTS // 2:
        assert any(client.is_alive() for client in clients), [c.wrong for c in clients]
        time.sleep(0.01)
    victim = service.replicas()[0]
    os.kill(victim, signal.SIGKILL)
    for client in clients:
        client.join(PATIENCE)
    assert not [line for client in clients for line in client.wrong]
    statuses = [status for client in clients for status in client.statuses]
    assert set(statuses) <= {200, 400, 413, 415, 422, *AGAIN}
    assert len([status for status in statuses if status not in AGAIN]) == CLIENTS * EACH
    service.wait_until_ready(REPLICAS)
    assert victim not in service.replicas()
    figures = requests.get(f"{service.address}/metrics", timeout=PATIENCE).text
    assert 'fusion_engine_requests_total{status="413"}' in figures
    # Some batches had more than one clip.
    assert batches(figures, "sum") > batches(figures, "count")


def batches(figures, what):
    (line,) = [
        one for one in figures.splitlines() if one.startswith(f"fusion_engine_batch_clips_{what} ")
    ]
    return float(line.split()[1])


def test_what_is_under_way_is_answered_before_it_stops(service, recordings):
    """The last test: the service is gone afterwards."""
    files = [("file", ("a.wav", data)) for data, _ in recordings]
    signalled, late = threading.Event(), []

    def go_on():
        """Until no more is taken."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            before = not signalled.is_set()
            try:
                response = service.ask(files=files, data={"encoding_format": "base64"})
            except requests.ConnectionError:
                assert not before
                return
            if response.status_code == 503:
                assert response.json()["error"]["code"] == "draining"
                return
            for ours, (_, embedding) in zip(embeddings(response), recordings, strict=True):
                np.testing.assert_array_equal(ours, embedding)
            if before and signalled.is_set():
                late.append(response)

    family = service.processes()
    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(go_on) for _ in range(8)]
        time.sleep(0.5)
        signalled.set()
        assert service.stop() == 0, service.log.read_text()
        for client in clients:
            client.result()
    assert late
    assert service.log.read_text().splitlines()[-1] == "stopped"
    deadline = time.monotonic() + PATIENCE
    while alive(family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(family)


def alive(family):
    """Those of these processes that are there, and no zombies whom nobody waits for."""
    listed = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True)
    found = [line.split() for line in listed.stdout.splitlines()]
    return {int(pid) for pid, state in found if state[0] != "Z"} & family.keys()
