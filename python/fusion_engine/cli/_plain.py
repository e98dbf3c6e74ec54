"""How far a run is, in lines of plain text: for log files, where no bar can be drawn."""

import time
from collections.abc import Callable

# Seconds between two lines, and before the first.
EVERY = 30.0
# What is done within this many seconds of the start was kept from before, and tells no speed.
_AT_ONCE = 1.0


def span(seconds: float) -> str:
    """A time that passed: ``3 min 20 s``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60} min"


def about(seconds: float) -> str:
    """A time that is guessed: one unit, rounded up."""
    for unit, length in (("h", 3_600), ("min", 60)):
        if seconds > 1.5 * length:
            return f"{-int(-seconds // length)} {unit}"
    return f"{max(1, -int(-seconds // 1))} s"


def clock(seconds: float) -> str:
    """A time that passed, as a clock shows it: ``3:20``."""
    minutes, rest = divmod(int(seconds), 60)
    whole, minutes = divmod(minutes, 60)
    return f"{whole}:{minutes:02}:{rest:02}" if whole else f"{minutes}:{rest:02}"


def hours(seconds: float) -> str:
    """How much audio: ``83.20 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3_600 else f"{seconds / 3_600:.2f} h"


def times_real(speed: float) -> str:
    """Seconds of audio per second: ``340 × real time``."""
    return f"{speed:.0f} × real time" if speed >= 10 else f"{speed:.1f} × real time"


class PlainProgress:
    """Writes a line for the work that goes on, at most every 30 s.

    Args:
        write: takes a line.
        clock: seconds, from any start.
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._started = dict[str, tuple[float, int]]()
        self._last = clock()

    def show(self, task: str, done: int, total: int) -> None:
        """Note that ``done`` of the ``total`` steps of ``task`` are done."""
        now = self._clock()
        started, _ = self._started.setdefault(task, (now, done))
        if done >= total:
            del self._started[task]
        elif now - started < _AT_ONCE:
            self._started[task] = started, done
        else:
            self.say(lambda: self._line(task, done, total, now))

    def _line(self, task: str, done: int, total: int, now: float) -> str:
        started, kept = self._started[task]
        elapsed = now - started
        line = f"{task}: {done} of {total} ({100 * done // total} %), {span(elapsed)}"
        if done > kept:
            line += f", about {about(elapsed / (done - kept) * (total - done))} left"
        return line

    def say(self, line: Callable[[], str]) -> None:
        """Write a line, if the last one is 30 s old."""
        now = self._clock()
        if now - self._last >= EVERY:
            self._last = now
            self._write(line())
