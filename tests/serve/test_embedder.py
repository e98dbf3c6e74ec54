"""What a replica answers, without Ray."""

import asyncio
import base64
import json
from types import SimpleNamespace

import numpy as np
import pytest

import fusion_engine as fe
from fusion_engine.serve import Batching, Limits
from fusion_engine.serve.embedder import Embedder

from ..signals import noise
from .audio import RATE, uri, wav

LENGTHS = (1.0, 0.5, 1.0, 2.3, 1.0, 0.5)


@pytest.fixture(scope="module")
def embedder(cnn14_artifact):
    limits = Limits(inputs=8, audio_seconds=20.0)
    return Embedder(
        str(cnn14_artifact),
        "cnn14_1",
        device="cpu",
        threads=1,
        limits=limits,
        batching=Batching(clips=4, wait_seconds=0.05),
    )


@pytest.fixture(scope="module")
def expected(cnn14_artifact):
    engine = fe.Engine(cnn14_artifact, device="cpu", threads=1)
    return [engine.embed(noise(seconds, RATE, seed)) for seed, seconds in enumerate(LENGTHS)]


def answers(embedder, *asked):
    """The answers to requests that come at once: their replies, and what JSON is in them."""

    async def main():
        bodies = [json.dumps(fields).encode() for fields in asked]
        return await asyncio.gather(*(embedder.answer("application/json", body) for body in bodies))

    replies = asyncio.run(main())
    return replies, [json.loads(reply.body) for reply in replies]


def recordings():
    return [uri(wav(seconds, seed)) for seed, seconds in enumerate(LENGTHS)]


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_are_those_of_the_engine(embedder, expected, encoding):
    (reply,), (answer,) = answers(
        embedder, {"input": recordings(), "model": "cnn14_1", "encoding_format": encoding}
    )
    assert reply.status == 200
    assert (answer["object"], answer["model"]) == ("list", "cnn14_1")
    assert [one["index"] for one in answer["data"]] == list(range(len(LENGTHS)))
    for one, embedding in zip(answer["data"], expected, strict=True):
        got = one["embedding"]
        if encoding == "base64":
            got = np.frombuffer(base64.b64decode(got), "<f4")
        # Of the numbers, as of the bytes, every digit.
        np.testing.assert_array_equal(got, embedding)
        assert one["object"] == "embedding"
    assert answer["usage"]["audio_seconds"] == pytest.approx(sum(LENGTHS))


def test_requests_share_batches_of_one_length(embedder, expected):
    replies, found = answers(embedder, *({"input": one} for one in recordings()))
    assert sorted(count for reply in replies for count in reply.batches) == [1, 2, 3]
    for answer, embedding in zip(found, expected, strict=True):
        np.testing.assert_array_equal(answer["data"][0]["embedding"], embedding)


def test_a_bad_recording_is_its_own_requests_error(embedder, expected):
    good = {"input": uri(wav(LENGTHS[0], 0))}
    bad = {"input": [uri(wav()), uri(wav()[:-999])]}
    (ok, refused), (answer, error) = answers(embedder, good, bad)
    np.testing.assert_array_equal(answer["data"][0]["embedding"], expected[0])
    assert (ok.status, refused.status) == (200, 422)
    assert error["error"]["param"] == "input[1]"
    assert "input[1]" in error["error"]["message"]


def test_a_clip_without_an_embedding_takes_no_other_with_it(embedder, expected, monkeypatch):
    def fail(_):
        raise fe.NumericalError("clip 1: layer_1 is not finite")

    def stream(items):
        for found in type(embedder._engine).embed_stream(embedder._engine, items):
            yield found._replace(result=fe.NumericalError("clip")) if found.key == 1 else found

    monkeypatch.setattr(embedder._engine, "embed", fail)
    monkeypatch.setattr(embedder._engine, "embed_stream", stream)
    replies, found = answers(embedder, *({"input": uri(wav(1.0, seed))} for seed in (0, 2, 4)))
    assert sorted(reply.status for reply in replies) == [200, 200, 422]
    for answer, embedding in zip(found, expected[::2], strict=True):
        if "error" in answer:
            assert answer["error"]["code"] == "no_finite_embedding"
        else:
            np.testing.assert_array_equal(answer["data"][0]["embedding"], embedding)


def test_audio_of_a_request_is_limited(embedder):
    (one,), (error,) = answers(embedder, {"input": [uri(wav(4.0, seed)) for seed in range(6)]})
    assert (one.status, error["error"]["code"]) == (413, "audio_too_long")


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (MemoryError(), 503, "out_of_memory"),
        (fe.BackendError("ONNX Runtime failed: std::bad_alloc"), 503, "out_of_memory"),
        (fe.BackendError("the GPU fell off the bus"), 500, "engine_failed"),
        (fe.NumericalError("layer_1 is not finite"), 422, "no_finite_embedding"),
    ],
)
def test_errors_of_the_engine(embedder, monkeypatch, raised, status, code):
    def fail(_):
        raise raised

    def stream(items):
        return [SimpleNamespace(result=raised) for _ in items]

    monkeypatch.setattr(embedder._engine, "embed", fail)
    monkeypatch.setattr(embedder._engine, "embed_stream", stream)
    (reply,), (error,) = answers(embedder, {"input": uri(wav())})
    assert (reply.status, error["error"]["code"]) == (status, code)
    assert (reply.retry_after is not None) == (status == 503)


@pytest.mark.gpu
def test_on_a_gpu(cnn14_artifact):
    embedder = Embedder(
        str(cnn14_artifact),
        "cnn14_1",
        device="cuda",
        threads=1,
        limits=Limits(),
        batching=Batching(clips=4, wait_seconds=0.05),
    )
    _, found = answers(embedder, *({"input": one} for one in recordings()))
    with fe.Engine(cnn14_artifact, device="cuda") as engine:
        for answer, (seed, seconds) in zip(found, enumerate(LENGTHS), strict=True):
            expected = engine.embed(noise(seconds, RATE, seed))
            got = np.array(answer["data"][0]["embedding"], np.float32)
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
