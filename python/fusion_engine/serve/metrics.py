"""Figures for Prometheus.

All requests pass through one front, which counts them: so one page has the sums over all replicas,
at once, and a replica that dies takes no figures with it. Ray's own metrics, of each node's agent,
are there besides.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from .reply import Reply

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_CLIPS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """What ``/metrics`` shows."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "fusion_engine_requests", "Requests answered.", ["status"], registry=registry
        )
        self._seconds = Histogram(
            "fusion_engine_request_seconds",
            "From a request to its answer.",
            ["status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "fusion_engine_batch_clips",
            "Clips of a batch that a replica ran.",
            buckets=_CLIPS,
            registry=registry,
        )
        self._audio = Counter(
            "fusion_engine_audio_seconds", "Audio that was embedded.", registry=registry
        )
        self._pending = Gauge(
            "fusion_engine_requests_pending", "Requests not yet answered.", registry=registry
        )
        self._held = Gauge(
            "fusion_engine_held_bytes", "Of bodies not yet answered.", registry=registry
        )
        self._retried = Counter(
            "fusion_engine_retries",
            "Requests given to a second replica, since the first was lost.",
            registry=registry,
        )

    @contextmanager
    def request(self) -> Iterator[list[Reply]]:
        """Count a request; its answer is to be appended. Without one its client has gone."""
        start, replies = perf_counter(), list[Reply]()
        self._pending.inc()
        try:
            yield replies
        finally:
            self._pending.dec()
            status = str(replies[0].status) if replies else "499"
            self._requests.labels(status).inc()
            self._seconds.labels(status).observe(perf_counter() - start)
            for reply in replies:
                self._audio.inc(reply.audio_seconds)
                for clips in reply.batches:
                    self._batches.observe(clips)

    def retried(self) -> None:
        """A request goes to a second replica."""
        self._retried.inc()

    def holds(self, held: int) -> None:
        """Bytes of bodies that are in memory."""
        self._held.set(held)

    def page(self) -> bytes:
        """In Prometheus's text format, 0.0.4."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self._registry))
