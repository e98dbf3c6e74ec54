"""What a look at an audio file's container found."""

from dataclasses import dataclass
from typing import Literal, NamedTuple


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a container says of its samples, held against the file.

    Attributes:
        kind: the container ("WAV", "RF64", "AIFF", "OGG", "FLAC", "MP3" and others); "" if unknown.
        stated_samples: samples per channel, where a header states them exactly; None if it does not
            or only guesses: decode to the end.
        least_samples: samples per channel that its parts add up to at least, stated or not.
        fault: how the file contradicts itself or is damaged, as part of a sentence.
        patches: (offset, bytes) that the decoder must read in place of the file's own, so that it
            reads all there is and nothing makes it hang.
        sequential: to be decoded as a stream of unknown length; a guess would end it early.
        decoder: what can read it.
    """

    kind: str
    stated_samples: int | None = None
    least_samples: int = 0
    fault: str | None = None
    patches: tuple[tuple[int, bytes], ...] = ()
    sequential: bool = False
    decoder: Literal["libsndfile", "ffmpeg"] = "libsndfile"


class Glance(NamedTuple):
    """What a header says of a recording, taken at its word.

    Attributes:
        seconds: how long it is.
        channels: how many it has.
        stated: whether the header states the length; else it is the bytes at the header's bit rate.
    """

    seconds: float
    channels: int
    stated: bool = True
