"""How far a run of ``embed`` is, how fast it goes, and how long it will take."""

import time
from collections.abc import Callable, Sequence
from statistics import fmean

# Windows begin at whole samples.
_SLACK = 1e-3


class Pace:
    """Counts the files of a run, and the audio that it embeds itself, of one file after the other.

    What is left is taken to go as fast as what is done. The file under way is taken to be as long
    as it states, and those after it as ``lengths`` has them, or else as the others were.

    Args:
        total: files of the run.
        kept: files of these that an earlier run has done.
        lengths: seconds of files, spread evenly over those that are to be done, in their order;
            None each where they are not known.
        gap: seconds from the end of a window to the start of the next; 0 where they overlap.
        clock: seconds, from any start.

    Attributes:
        total: as given.
        done: files that have ended.
        audio: seconds of recordings that this run has embedded.
        length: seconds of the file under way, if they are known.
    """

    def __init__(
        self,
        total: int,
        kept: int = 0,
        *,
        lengths: Sequence[float | None] = (),
        gap: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done, self.audio = total, kept, 0.0
        self.length: float | None = None
        self._kept, self._gap, self._clock = kept, gap, clock
        self._lengths = lengths
        self._began = self._file_began = clock()
        # Of the file under way: how far it is, how much of that is this run's, whether all of it.
        self._reached, self._embedded, self._whole = 0.0, 0.0, True

    def clip(self, start: float, end: float) -> None:
        """Note that ``start``…``end`` (s) of the file under way are embedded."""
        if start - self._reached > self._gap + _SLACK:
            # A part of the recording, or what an earlier run kept comes before.
            self._reached, self._whole = start, False
        self._count(max(end, self._reached))

    def end(self, duration: float | None) -> None:
        """Note that the file under way has ended.

        Args:
            duration: of the recording, in seconds, where all of it was to be embedded.
        """
        if duration is not None and self._whole:
            self._count(duration)  # without what padding adds, with what no window takes
        self._next()

    def fail(self) -> None:
        """Note that the file under way failed."""
        self.audio -= self._embedded
        self._next()

    def _count(self, reached: float) -> None:
        more = reached - self._reached
        self.audio += more
        self._embedded += more
        self._reached = reached

    def _next(self) -> None:
        self.done += 1
        self._reached, self._embedded, self._whole = 0.0, 0.0, True
        self.length = None
        self._file_began = self._clock()

    @property
    def ended(self) -> int:
        """Files that this run has ended."""
        return self.done - self._kept

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._began

    @property
    def file_elapsed(self) -> float:
        """Seconds since the file under way began."""
        return self._clock() - self._file_began

    @property
    def file_fraction(self) -> float | None:
        """How much of the file under way is done, if its length is known."""
        return min(1.0, self._reached / self.length) if self.length else None

    @property
    def fraction(self) -> float:
        """How much of all files is done."""
        return (self.done + (self.file_fraction or 0.0)) / self.total

    @property
    def speed(self) -> float | None:
        """Seconds of audio embedded per second, after the first one."""
        elapsed = self.elapsed
        return self.audio / elapsed if self.audio > 0 and elapsed >= 1 else None

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take, if there is anything to tell it by."""
        speed, audio, begun = self.speed, self.audio, self._reached > 0
        if speed is None:
            return None
        rest = max(0.0, (self.length or 0.0) - self._reached) if begun else 0.0
        seen = self.ended + begun
        mean = self._mean_behind(seen)
        if mean is None:
            mean = (audio + rest) / max(1, seen)
        return (rest + mean * (self.total - self.done - begun)) / speed

    def _mean_behind(self, seen: int) -> float | None:
        """Of the files after the first ``seen`` of this run, as far as they were looked at."""
        first = seen * len(self._lengths) // max(1, self.total - self._kept)
        known = [length for length in self._lengths[first:] if length is not None]
        return fmean(known) if known else None
