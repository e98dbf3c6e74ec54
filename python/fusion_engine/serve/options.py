"""What whoever runs the service decides: limits, and how clips become batches."""

from dataclasses import dataclass, fields


class _Positive:
    """A dataclass of numbers, all of them above 0."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"{field.name} is {value}, expected more than 0")


@dataclass(frozen=True, kw_only=True)
class Limits(_Positive):
    """What a request may ask for; beyond it is an error that names the limit.

    Attributes:
        body_bytes: of a request's body, as it is sent.
        inputs: recordings in one request.
        audio_seconds: of all recordings of one request together, decoded.
        decode_seconds: for decoding one recording.
        request_seconds: from a request to its answer, the wait for a replica included.
        held_bytes: of bodies that are being read or answered, in all.
        queued: requests that wait for a replica.
    """

    body_bytes: int = 32 * 2**20
    inputs: int = 64
    audio_seconds: float = 600.0
    decode_seconds: float = 10.0
    request_seconds: float = 60.0
    held_bytes: int = 2**30
    queued: int = 256


@dataclass(frozen=True, kw_only=True)
class Batching(_Positive):
    """How a replica collects clips of one frame count.

    Attributes:
        clips: the most of one batch.
        wait_seconds: for more clips, from a batch's first one on.
    """

    clips: int = 16
    wait_seconds: float = 0.005
