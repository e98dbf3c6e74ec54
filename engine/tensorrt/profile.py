"""The ranges of input shapes that a plan takes."""

import math
from dataclasses import dataclass, replace

from ...spec import Spec
from ..cut import bucket

DEFAULT_BATCH = (1, 8, 32)
_OPT_SECONDS, _MAX_SECONDS = 10.0, 60.0
_DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Range:
    """Smallest, most common and largest size; the plan is tuned for the second."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"

    @property
    def triple(self) -> tuple[int, int, int]:
        """As TensorRT takes it."""
        return self.min, self.opt, self.max


@dataclass(frozen=True, kw_only=True)
class Profile:
    """An optimization profile of a plan: clips or segments per run, frames of log-mel each."""

    batch: Range
    frames: Range

    @property
    def is_static(self) -> bool:
        """Whether it takes one shape only."""
        return self.batch.min == self.batch.max and self.frames.min == self.frames.max

    @property
    def most_common(self) -> "Profile":
        """The shape that it is tuned for, and no other."""
        batch, frames = self.batch.opt, self.frames.opt
        return Profile(
            batch=Range(min=batch, opt=batch, max=batch),
            frames=Range(min=frames, opt=frames, max=frames),
        )

    def __str__(self) -> str:
        if self.is_static:
            return f"batch {self.batch.opt}, frames {self.frames.opt}"
        return f"batch {self.batch}, frames {self.frames}"

    def contains(self, other: "Profile") -> bool:
        """Whether it takes every shape that ``other`` takes."""
        return all(
            mine.min <= theirs.min and theirs.max <= mine.max
            for mine, theirs in ((self.batch, other.batch), (self.frames, other.frames))
        )

    def shapes(self, n_mels: int) -> tuple[tuple[int, ...], ...]:
        """The three shapes [B, 1, T, n_mels] of ``log_mel``."""
        pairs = zip(self.batch.triple, self.frames.triple, strict=True)
        return tuple((batch, 1, frames, n_mels) for batch, frames in pairs)


def profiles_of(profile: Profile, *, static: bool) -> tuple[Profile, ...]:
    """The profiles of a plan that takes all that ``profile`` takes, the tightest first.

    The runtime takes the first that fits. With ``static`` the most common shape has one of its own,
    whose kernels need not serve any other.
    """
    if profile.is_static or not static:
        return (profile,)
    return (profile.most_common, profile)


def make_profile(
    spec: Spec,
    *,
    batch: tuple[int, int, int] | None = None,
    seconds: tuple[float, float, float] | None = None,
    frames: tuple[int, int, int] | None = None,
) -> Profile:
    """The profile of a plan of the artifact with ``spec``.

    Args:
        spec: the artifact's.
        batch: clips (or segments) per run, smallest, most common, largest; 1, 8, 32 by default.
        seconds: length of a run in seconds, as the frontend counts frames. By default the model's
            minimum, 10 s and 60 s, or the artifact's longest input where that is shorter.
        frames: the same in frames of log-mel; give one of the two, and neither for an artifact of
            fixed length.

    Raises:
        ValueError: no range, a length that the model or the artifact cannot take.
    """
    if seconds is not None and frames is not None:
        raise ValueError("seconds and frames say the same: give one of them")
    sizes = _range("batch", batch or DEFAULT_BATCH)
    if spec.segment is not None:
        fixed = spec.segment.frames
        asked = frames if seconds is None else _count(spec, seconds)
        if asked is not None and set(asked) != {fixed}:
            raise ValueError(
                f"frames {asked}: {spec.model} takes segments of {fixed} frames and no other "
                "length; leave the length out"
            )
        return Profile(batch=sizes, frames=Range(min=fixed, opt=fixed, max=fixed))
    if seconds is not None:
        lengths = _range("frames", _count(spec, seconds))
    elif frames is not None:
        lengths = _range("frames", frames)
    else:
        opt, longest = (_frames(spec, limit) for limit in (_OPT_SECONDS, _MAX_SECONDS))
        longest = min(longest, spec.max_frames)
        middle = min(max(opt, spec.min_frames), longest)
        lengths = Range(min=spec.min_frames, opt=middle, max=longest)
    if lengths.min < spec.min_frames:
        raise ValueError(
            f"a minimum of {_length(spec, lengths.min)}: {spec.model} takes at least "
            f"{_length(spec, spec.min_frames)}, and a shorter input would leave layers empty"
        )
    if lengths.max > spec.max_frames:
        raise ValueError(
            f"a maximum of {_length(spec, lengths.max)}: the artifact takes at most "
            f"{_length(spec, spec.max_frames)} in one run. Export it with a larger --seconds, or "
            "ask for less"
        )
    if spec.masked:  # clips of that length run at their bucket's
        lengths = replace(lengths, opt=min(bucket(lengths.opt), lengths.max))
    return Profile(batch=sizes, frames=lengths)


def _range(what: str, values: tuple[int, int, int]) -> Range:
    if len(values) != 3 or not 1 <= values[0] <= values[1] <= values[2]:
        raise ValueError(
            f"{what} {':'.join(map(str, values))}: expected MIN:OPT:MAX, from 1 up and not falling"
        )
    return Range(min=values[0], opt=values[1], max=values[2])


def _count(spec: Spec, seconds: tuple[float, float, float]) -> tuple[int, int, int]:
    for value in seconds:
        if not 0 <= value <= _DAY:
            raise ValueError(f"seconds {seconds}: expected lengths from 0 to {_DAY:.0f}")
    least, opt, most = (_frames(spec, value) for value in seconds)
    return least, opt, most


def _frames(spec: Spec, seconds: float) -> int:
    return spec.frontend.frames(round(seconds * spec.frontend.sample_rate))


def _length(spec: Spec, frames: int) -> str:
    front = spec.frontend
    # Rounded up: what is named as enough must be enough.
    seconds = math.ceil(front.samples(frames) / front.sample_rate * 100) / 100
    return f"{frames} frames ({max(0.0, seconds):g} s)"
