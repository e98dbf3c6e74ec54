"""What a body is read as, and what is refused in it."""

import asyncio
import importlib.util
import json

import pytest
import requests

from fusion_engine.serve import Limits
from fusion_engine.serve.reply import RequestError
from fusion_engine.serve.request import parse

from .audio import uri

needs_forms = pytest.mark.skipif(
    importlib.util.find_spec("python_multipart") is None
    or importlib.util.find_spec("starlette") is None,
    reason="python-multipart is not installed",
)
LIMITS = Limits(inputs=3)


def parsed(body, content_type="application/json"):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return asyncio.run(parse(content_type, body, "cnn14", LIMITS))


def form(files, **fields):
    """As ``requests`` writes one."""
    request = requests.Request("POST", "http://127.0.0.1/", files=files, data=fields).prepare()
    return parsed(request.body, request.headers["Content-Type"])


def test_one_and_many():
    one = parsed({"input": uri(b"RIFF1"), "model": "cnn14", "encoding_format": "base64"})
    assert (one.inputs, one.names, one.encoding) == ([b"RIFF1"], ["input"], "base64")
    many = parsed({"input": [uri(b"1", "audio/flac; rate=8000"), "DATA:;base64,Mg=="], "user": "x"})
    assert (many.inputs, many.names) == ([b"1", b"2"], ["input[0]", "input[1]"])
    assert many.encoding == "float"


@needs_forms
def test_files_of_a_form():
    big = bytes(range(256)) * 20_000
    asked = form([("file", ("a.wav", big)), ("file", ("b.wav", b"2"))], encoding_format="base64")
    assert (asked.inputs, asked.names) == ([big, b"2"], ["file[0]", "file[1]"])
    assert asked.encoding == "base64"


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        (b"{", 400, "invalid_json", "no JSON"),
        (b"\xff\xfe", 400, "invalid_json", "no JSON"),
        (b"[" * 100_000, 400, "invalid_json", "no JSON"),
        ([1], 400, "invalid_json", "no JSON object"),
        ({}, 400, "invalid_input", "no input"),
        ({"input": []}, 400, "invalid_input", "no recordings"),
        ({"input": [3]}, 400, "invalid_input", r"input\[0\]: is int"),
        ({"input": "call.wav"}, 400, "invalid_input", "is 'call.wav'"),
        ({"input": "data:audio/wav,abc"}, 400, "invalid_input", "not in base64"),
        ({"input": "data:audio/wav;base64,a?c="}, 400, "invalid_input", "no base64"),
        ({"input": "data:audio/wav;base64,é"}, 400, "invalid_input", "no base64"),
        ({"input": "data:text/html;base64,YQ=="}, 415, "not_audio", "is 'text/html'"),
        ({"input": ["data:;base64,"] * 4}, 413, "too_many_inputs", "4 recordings.*at most 3"),
        ({"input": "data:;base64,", "model": "clap"}, 404, "model_not_found", "'cnn14' only"),
        (
            {"input": "data:;base64,", "encoding_format": "int8"},
            400,
            None,
            "'int8', expected float",
        ),
        ({"input": "data:;base64,", "encoding_format": ["float"]}, 400, None, "expected float"),
        ({"input": "data:;base64,", "dimensions": 8}, 400, "unknown_parameter", "dimensions"),
    ],
)
def test_bodies_that_are_refused(body, status, code, message):
    with pytest.raises(RequestError, match=message) as caught:
        parsed(body)
    assert caught.value.status == status
    assert code in (None, caught.value.code)


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data",
        "HTTPS://example.org/a.wav",
        "file:///etc/passwd",
        "ftp://127.0.0.1/a.wav",
        "s3://bucket/a.wav",
        "gopher:x",
    ],
)
def test_addresses_are_not_fetched(address):
    with pytest.raises(RequestError, match=r"addresses are not fetched.*data:audio/wav") as caught:
        parsed({"input": ["data:;base64,", address]})
    assert (caught.value.status, caught.value.code) == (400, "url_not_fetched")
    assert caught.value.param == "input[1]"


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "audio/wav", "application/x-www-form-urlencoded"]
)
def test_other_content_types(kind):
    with pytest.raises(RequestError, match="expected application/json or") as caught:
        parsed(b"x", kind)
    assert caught.value.status == 415


@needs_forms
def test_forms_that_are_refused():
    for files, fields, status, message in (
        ({"audio": ("a.wav", b"1")}, {}, 400, "a file is named 'audio'"),
        ({"file": ("a.wav", b"1")}, {"url": "http://127.0.0.1"}, 400, "unknown field 'url'"),
        ({"file": ("a.wav", b"1")}, {"model": "clap"}, 404, "model is 'clap'"),
        ([("file", ("a.wav", b"1"))] * 4, {}, 413, "4 recordings"),
        ([("file", ("a.wav", b"1"))] * 5, {}, 400, "no multipart"),
    ):
        with pytest.raises(RequestError, match=message) as caught:
            form(files, **fields)
        assert caught.value.status == status
    for body, kind in (
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x"),
        (b"nothing", "multipart/form-data"),
        (b"--x--\r\n", "multipart/form-data; boundary=x"),
    ):
        with pytest.raises(RequestError) as caught:
            parsed(body, kind)
        assert caught.value.status == 400


def test_errors_have_the_shape_of_openai():
    reply = RequestError(422, "bad_audio", "input[1]: \udcff", "input[1]").reply()
    error = json.loads(reply.body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        "input[1]",
        "bad_audio",
    )
    assert reply.retry_after is None
    assert RequestError(429, "overloaded", "").reply().retry_after == 1
