"""Where the windows of a recording begin and end: integers, so that nothing drifts."""

from fractions import Fraction
from math import ceil
from typing import Literal, get_args

from ..errors import AudioError

Tail = Literal["half", "keep", "pad", "drop"]
TAILS: tuple[Tail, ...] = get_args(Tail)


class Windows:
    """Windows of ``window`` seconds, one every ``hop`` seconds, in samples.

    Window i begins at round(i · hop · rate), worked out in integers from the decimals that the
    caller wrote.

    Args:
        window: seconds.
        hop: seconds; ``None``: as long as the window.
        tail: what becomes of the samples after the last whole window: a window of their own
            (``keep``), one that is zero-padded to the whole length (``pad``), nothing (``drop``),
            or a window if they are at least half of one (``half``).
        sample_rate: in Hz.

    Attributes:
        length: of a window, in samples.

    Raises:
        ValueError: less than a sample, not finite, or an unknown ``tail``.
    """

    def __init__(
        self, window: float, hop: float | None, *, tail: Tail = "half", sample_rate: int
    ) -> None:
        if tail not in TAILS:
            raise ValueError(f"tail is {tail!r}, expected one of {list(TAILS)}")
        self._tail = tail
        self._rate = sample_rate
        self.length = _rounded(_samples("window", window, sample_rate))
        self._hop = _samples("hop", window if hop is None else hop, sample_rate)

    def start(self, number: int) -> int:
        """The first sample of window ``number``, from 0 on."""
        return _rounded(number * self._hop)

    def last(self, total: int, number: int) -> int | None:
        """Samples of window ``number``, the first that is not whole, of ``total``; None: none."""
        left = total - self.start(number)
        least = {"half": self.length / 2, "drop": self.length}.get(self._tail, 1)
        if left < max(1, least):
            return None
        return self.length if self._tail == "pad" else left

    def count(self, total: int) -> int:
        """How many windows a recording of ``total`` samples has."""
        # round(i · hop) <= total - length, solved for i.
        whole = max(0, ceil((total - self.length + Fraction(1, 2)) / self._hop))
        return whole + (self.last(total, whole) is not None)

    def too_short(self, name: str, total: int) -> AudioError:
        """What is said of a recording without a window."""
        seconds = self.length / self._rate
        return AudioError(
            f"{name}: {total / self._rate:g} s give no window of {seconds:g} s (tail: "
            f"{self._tail}); keep or pad the tail, or take shorter windows",
            kind="shorter than a window",
        )


def _samples(name: str, seconds: float, sample_rate: int) -> Fraction:
    try:
        # As it was written: 0.1 is a tenth, not the binary fraction beside it.
        samples = Fraction(repr(float(seconds))) * sample_rate
    except ValueError:
        raise ValueError(f"{name} is {seconds} s, expected a number above 0") from None
    if samples < 1:
        raise ValueError(f"{name} is {seconds} s, expected at least one sample (1/{sample_rate} s)")
    return samples


def _rounded(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
