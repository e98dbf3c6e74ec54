"""The cases of the serve suite: requests over HTTP, against calls of ``Engine.embed``.

Both are given the same files by as many clients at once; a request's answer is compared with the
call's, bit for bit, before anything is timed.
"""

import base64
import importlib.util
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusion_engine import Engine
from tests import signals

from .cases_cpu import RATE, exported
from .harness import Case, Measurement, Skipped, WrongAnswerError
from .machine import usable_cores

if TYPE_CHECKING:
    from tests.serve.running import Service

THREADS = usable_cores()
LAYERS = (3, 6)
SECONDS = (1, 2, 5, 10)
FILES, REQUESTS, WARMUP = 32, 512, 32
CLIENTS = (1, 8, 32)

Embedding = NDArray[np.float32]


def cases() -> tuple[Case, ...]:
    """All of them, in the order of the report."""
    return tuple(
        Case(
            f"serve-c{clients}",
            f"{clients} at once, mixed lengths of 1 to 10 s",
            partial(serve, clients),
        )
        for clients in CLIENTS
    )


def serve(clients: int, folder: Path) -> list[Measurement | Skipped]:
    """The service and the engine alone, one after the other."""
    if importlib.util.find_spec("fastapi") is None:
        return [Skipped("Ray Serve", 'pip install ".[cpu,serve]"')]
    artifact = exported(LAYERS, folder)
    return [Measurement("fusion_engine", partial(measure, artifact, make_files(folder), clients))]


def make_files(folder: Path) -> list[Path]:
    """Recordings in 16 bits, of all lengths in turn."""
    import soundfile

    paths = [folder / f"serve-{number}.wav" for number in range(FILES)]
    for number, path in enumerate(paths):
        clip = signals.speech_like(SECONDS[number % len(SECONDS)], RATE, number)
        soundfile.write(path, clip, RATE)
    return paths


def measure(artifact: Path, paths: Sequence[Path], clients: int) -> dict[str, float]:
    """The figures of ``compare``, of a service that is started for it."""
    with tempfile.TemporaryDirectory(prefix="fe-", ignore_cleanup_errors=True) as folder:
        from tests.serve.running import Service

        service = Service(artifact, folder, "--replicas", 1, "--threads", THREADS)
        try:
            service.wait_until_ready(1)
            return compare(service, artifact, paths, clients)
        finally:
            service.end()


def compare(
    service: "Service", artifact: Path, paths: Sequence[Path], clients: int
) -> dict[str, float]:
    """Requests a second and latencies of both.

    Raises:
        WrongAnswerError: the service gave another answer than the engine.
    """
    bodies = {path: path.read_bytes() for path in paths}
    local = threading.local()

    def ask(path: Path) -> Embedding:
        if not hasattr(local, "session"):
            import requests

            local.session = requests.Session()
        response = local.session.post(
            f"{service.address}/v1/embeddings",
            files={"file": (path.name, bodies[path])},
            data={"encoding_format": "base64"},
            timeout=600,
        )
        response.raise_for_status()
        return np.frombuffer(base64.b64decode(response.json()["data"][0]["embedding"]), "<f4")

    with Engine(artifact, device="cpu", threads=THREADS) as engine:
        for path in paths:
            if not np.array_equal(ask(path), engine.embed(path)):
                raise WrongAnswerError(f"{path.name} is not what Engine.embed gives")
        served = figures("served", ask, paths, clients)
        return served | figures("direct", engine.embed, paths, clients)


def figures(
    name: str, call: Callable[[Path], Embedding], paths: Sequence[Path], clients: int
) -> dict[str, float]:
    """Calls a second, and the median and 99th percentile of their times in milliseconds."""
    timed(call, paths, clients, WARMUP)
    seconds, latencies = timed(call, paths, clients, REQUESTS)
    p50, p99 = np.percentile(latencies, (50, 99))
    return {
        f"{name}_per_second": len(latencies) / seconds,
        f"{name}_p50_ms": 1e3 * float(p50),
        f"{name}_p99_ms": 1e3 * float(p99),
    }


def timed(
    call: Callable[[Path], Embedding], paths: Sequence[Path], clients: int, count: int
) -> tuple[float, list[float]]:
    """Seconds in all, and of each of so many calls, by clients that send one after the other."""
    todo = iter([paths[number % len(paths)] for number in range(count)])
    lock, latencies, errors = threading.Lock(), list[float](), list[BaseException]()

    def client() -> None:
        while not errors:
            with lock:
                path = next(todo, None)
            if path is None:
                return
            start = time.perf_counter()
            try:
                call(path)
            except BaseException as error:
                errors.append(error)
            latencies.append(time.perf_counter() - start)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if errors:
        raise errors[0]
    return seconds, latencies
