"""From a request's body to the recordings in it. Nothing is fetched: a request brings its audio."""

import asyncio
import base64
import binascii
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from .options import Limits
from .reply import RequestError

Encoding = Literal["float", "base64"]

_SHAPE = (
    'expected {"input": "data:audio/wav;base64,…"} or a list of such, or multipart/form-data with '
    "`file`"
)
_FIELDS = ("input", "model", "encoding_format", "user")
_DATA = re.compile(r"data:([^,]*),", re.IGNORECASE)
_MEDIA = ("audio/", "video/", "application/ogg", "application/octet-stream")
_SHOWN = 40


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        inputs: the bytes of each recording.
        names: of the recordings, as the request has them: ``input[0]``.
        encoding: of the embeddings in the answer.
    """

    inputs: list[bytes]
    names: list[str]
    encoding: Encoding


async def parse(content_type: str, body: bytes, model: str, limits: Limits) -> Asked:
    """Read a request.

    Args:
        content_type: as its header says.
        body: all of it.
        model: the only one that there is.
        limits: on inputs; the body's was checked as it came.

    Raises:
        RequestError: 400, 404, 413 or 415.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        # A thread: large bodies take a tenth of a second.
        return await asyncio.to_thread(_parse_json, body, model, limits)
    if kind == "multipart/form-data":
        return await _parse_form(content_type, body, model, limits)
    raise RequestError(
        415,
        "unsupported_content_type",
        f"Content-Type is {kind[:_SHOWN] or 'missing'}, expected application/json or "
        "multipart/form-data",
    )


def _parse_json(body: bytes, model: str, limits: Limits) -> Asked:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            400, "invalid_json", f"the body is no JSON ({str(error)[:200]}); {_SHAPE}"
        ) from None
    if not isinstance(fields, dict):
        raise RequestError(400, "invalid_json", f"the body is no JSON object; {_SHAPE}")
    for name in fields:
        if name not in _FIELDS:
            raise RequestError(
                400,
                "unknown_parameter",
                f"unknown parameter {_shown(name)}, expected {', '.join(_FIELDS)}",
                name[:_SHOWN],
            )
    encoding = _check(fields.get("model"), fields.get("encoding_format"), model)
    given = fields.get("input")
    if isinstance(given, str):
        return Asked([_data(given, "input")], ["input"], encoding)
    if not isinstance(given, list):
        raise RequestError(400, "invalid_input", f"no input; {_SHAPE}", "input")
    _check_count(len(given), limits)
    names = [f"input[{index}]" for index in range(len(given))]
    return Asked([_data(*pair) for pair in zip(given, names, strict=True)], names, encoding)


async def _parse_form(content_type: str, body: bytes, model: str, limits: Limits) -> Asked:
    from starlette.datastructures import Headers, UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        Headers({"content-type": content_type}),
        stream(),
        # One more, so that the message is ours.
        max_files=limits.inputs + 1,
        max_fields=len(_FIELDS),
        max_part_size=4096,
    )
    # In memory, which the body was in already.
    parser.spool_max_size = len(body) + 1
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", None) or str(error)
        raise RequestError(
            400, "invalid_form", f"the body is no multipart/form-data ({reason[:200]}); {_SHAPE}"
        ) from None
    inputs, named = list[bytes](), dict[str, str]()
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in ("file", "file[]"):
                    raise RequestError(
                        400, "unknown_parameter", f"a file is named {_shown(name)}; {_SHAPE}"
                    )
                inputs.append(await value.read())
            elif name in ("model", "encoding_format", "user"):
                named[name] = value
            else:
                raise RequestError(
                    400,
                    "unknown_parameter",
                    f"unknown field {_shown(name)}, expected file, model, encoding_format; send "
                    "recordings as files, with a file name",
                    name[:_SHOWN],
                )
    finally:
        await form.close()
    _check_count(len(inputs), limits)
    encoding = _check(named.get("model"), named.get("encoding_format"), model)
    return Asked(inputs, [f"file[{index}]" for index in range(len(inputs))], encoding)


def _check(model: Any, encoding: Any, served: str) -> Encoding:
    if model is not None and model != served:
        raise RequestError(
            404,
            "model_not_found",
            f"model is {_shown(model)}, and this service has {served!r} only",
            "model",
        )
    match encoding:
        case None:
            return "float"
        case "float" | "base64":
            return encoding  # type: ignore[no-any-return]
    raise RequestError(
        400,
        "invalid_encoding_format",
        f"encoding_format is {_shown(encoding)}, expected float or base64",
        "encoding_format",
    )


def _check_count(count: int, limits: Limits) -> None:
    if count == 0:
        raise RequestError(400, "invalid_input", f"no recordings; {_SHAPE}", "input")
    if count > limits.inputs:
        raise RequestError(
            413,
            "too_many_inputs",
            f"{count} recordings, expected at most {limits.inputs}: send several requests",
            "input",
        )


def _data(value: Any, name: str) -> bytes:
    """The bytes of a data URI.

    Raises:
        RequestError: 400 or 415.
    """

    def refuse(message: str, status: int = 400, code: str = "invalid_input") -> NoReturn:
        raise RequestError(status, code, f"{name}: {message}", name)

    if not isinstance(value, str):
        refuse(f"is {type(value).__name__}; expected text, data:audio/wav;base64,…")
    head = _DATA.match(value)
    if head is None:
        if re.match(r"[a-z][a-z0-9+.-]*:", value, re.IGNORECASE):
            refuse(
                f"is the address {_shown(value)}, and addresses are not fetched: send the "
                "recording itself, as data:audio/wav;base64,… or as a multipart file",
                code="url_not_fetched",
            )
        refuse(f"is {_shown(value)}; expected data:audio/wav;base64,…")
    media, *parameters = (part.strip().lower() for part in head[1].split(";"))
    if media and not media.startswith(_MEDIA):
        refuse(f"is {_shown(media)}, expected audio/…", 415, "not_audio")
    if "base64" not in parameters:
        refuse("is not in base64; expected data:audio/wav;base64,…")
    try:
        return base64.b64decode(value[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        refuse(f"is no base64 ({error}); expected data:audio/wav;base64,…")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return repr(text[:_SHOWN] + ("…" if len(text) > _SHOWN else ""))
