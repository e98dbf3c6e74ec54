"""What ``embed --dry-run`` says."""

from collections.abc import Iterator

from .._words import counted
from ..audio.estimate import ASSUMED_RATE, Survey
from ._columns import print_wrapped
from ._plain import about, times_real


def print_survey(survey: Survey, speed: float | None = None) -> None:
    """The lines of a dry run, on stdout.

    Args:
        survey: of the files.
        speed: seconds of audio per second, as measured; None if it is not known.
    """
    print_wrapped(_fields(survey, speed))


def _fields(survey: Survey, speed: float | None) -> Iterator[tuple[str, str]]:
    sampled = survey.sampled < survey.files
    near = "about " if sampled or survey.guessed else ""
    of = " of the sample" if sampled else ""
    yield "files", f"{survey.files}, {'about ' if sampled else ''}{_bytes(survey.size)}"
    if sampled:
        yield "sample", f"{survey.sampled} of them, the others are taken to be like these"
    if survey.unreadable:
        reasons = sorted(survey.unreadable.items(), key=lambda item: (-item[1], item[0]))
        lines = [f"{count}{of}: {reason}" for reason, count in reasons]
        yield "unreadable", "\n".join(lines)
    if survey.guessed:
        kilobits = ASSUMED_RATE * 8 // 1_000
        yield (
            "guessed",
            f"{counted(survey.guessed, 'file')}{of} without a stated length: by the bytes, at the "
            f"header's bit rate or {kilobits} kbit/s",
        )
    yield "audio", f"{near}{_length(survey.seconds)}"
    yield "rows", f"{near}{survey.rows}"
    yield "output", f"about {_bytes(survey.output_size)}"
    if speed is not None:
        yield "time", f"about {about(survey.seconds / speed)} ({times_real(speed)})"


def _length(seconds: float) -> str:
    return f"{seconds / 3_600:.1f} h" if seconds >= 3_600 else f"{seconds / 60:.1f} min"


def _bytes(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
