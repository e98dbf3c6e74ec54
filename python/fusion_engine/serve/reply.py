"""What is answered: a status and JSON, in the shapes of OpenAI's API."""

import json
from dataclasses import dataclass, field

from ..engine.onnx import is_out_of_memory
from ..errors import AudioError, FusionEngineError, NumericalError

# Seconds after which what was refused for want of room may be tried again.
RETRY_AFTER = 1

_NOT_AUDIO = ("not audio", "cannot be decoded")


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        status: of HTTP.
        body: JSON.
        retry_after: seconds, where trying again may help.
        audio_seconds: of audio that was embedded.
        batches: clips of each batch that began with a clip of this request.
    """

    status: int
    body: bytes
    retry_after: int | None = None
    audio_seconds: float = 0.0
    batches: list[int] = field(default_factory=list)


class RequestError(Exception):
    """Why a request has no embeddings.

    Args:
        status: of HTTP; 429 and 503 may be tried again.
        code: what is wrong in a word, for programs.
        message: what was got, what was expected and what to do.
        param: the field of the request that is meant.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def reply(self) -> Reply:
        """As an answer."""
        kind = "invalid_request_error"
        if self.status == 429:
            kind = "overloaded_error"
        elif self.status >= 500:
            kind = "server_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        body = json.dumps({"error": error}, ensure_ascii=False).encode(errors="backslashreplace")
        return Reply(self.status, body, RETRY_AFTER if self.status in (429, 503) else None)


def no_memory(detail: str = "") -> RequestError:
    """Memory ran out; another replica, or this one later, may have some."""
    return RequestError(
        503,
        "out_of_memory",
        f"the replica ran out of memory{f' ({detail})' if detail else ''}; try again, or send less "
        "audio at once",
    )


def of_engine(error: FusionEngineError | MemoryError, param: str | None = None) -> RequestError:
    """An error of the library, met while ``param`` was decoded or embedded."""
    if isinstance(error, MemoryError):
        return no_memory()
    message = f"{param}: {error}" if param else str(error)
    if isinstance(error, AudioError):
        if error.kind.startswith(_NOT_AUDIO):
            return RequestError(415, "not_audio", message, param)
        return RequestError(422, "bad_audio", message, param)
    if isinstance(error, NumericalError):
        return RequestError(422, "no_finite_embedding", message, param)
    if is_out_of_memory(error):
        return no_memory(str(error))
    return RequestError(500, "engine_failed", message)
