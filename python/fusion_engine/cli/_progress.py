"""What a run of ``embed`` shows while it goes on."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment

from ..audio.estimate import stated_seconds
from ._app import _stderr, go_on, print_message
from ._pace import Pace
from ._plain import PlainProgress, about, clock, hours, span, times_real

# Seconds after which the header of the file under way is looked at, and its name is shown.
_LOOK_AFTER, _NAME_AFTER = 1.0, 5.0
_BAR_CELLS = 10, 40
_GAP = "  "


class EmbedProgress:
    """A bar on stderr, or a line every 30 s where that is no terminal.

    Below the bar is the file under way, if it is a long one.

    Args:
        pace: of the run; counted here.
        todo: the files that are embedded, in order.
    """

    def __init__(self, pace: Pace, todo: Sequence[Path]) -> None:
        self._pace, self._todo = pace, todo
        self._looked = False
        self._plain = PlainProgress(print_message)
        self._live: AbstractContextManager[object] = nullcontext()
        if _stderr.is_terminal:
            self._live = Live(self, console=_stderr, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        self._show()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def clip(self, start: float, end: float) -> None:
        """Note that ``start``…``end`` (s) of the file under way are embedded."""
        self._pace.clip(start, end)
        if not self._looked and self._pace.file_elapsed > _LOOK_AFTER:
            self._looked = True
            self._pace.length = stated_seconds(self._todo[self._pace.ended])
        self._show()

    def end(self, duration: float | None) -> None:
        """Note the end of the file under way; see ``Pace.end``."""
        self._pace.end(duration)
        self._next()

    def fail(self) -> None:
        """Note that the file under way failed."""
        self._pace.fail()
        self._next()

    def _next(self) -> None:
        self._looked = False
        self._show()

    def _show(self) -> None:
        go_on()
        if not _stderr.is_terminal and self._pace.done < self._pace.total:
            self._plain.say(self._plain_line)

    def _plain_line(self) -> str:
        pace = self._pace
        line = f"Embedding: {pace.done} of {pace.total} files ({int(100 * pace.fraction)} %), "
        line += f"{hours(pace.audio)} of audio in {span(pace.elapsed)}"
        if (speed := pace.speed) is not None:
            line += f", {times_real(speed)}"
        if (left := pace.left) is not None:
            line += f", about {about(left)} left"
        long_file = self._long_file()
        return f"{line}; {long_file}" if long_file else line

    def _long_file(self) -> str:
        """The file under way, and how far it is; "" if it has not taken long yet."""
        number = self._pace.ended
        if number >= len(self._todo) or self._pace.file_elapsed < _NAME_AFTER:
            return ""
        fraction = self._pace.file_fraction
        percent = "" if fraction is None else f"{int(100 * fraction)} % of "
        return f"{percent}{self._todo[number]}"

    def _facts(self) -> Iterator[tuple[int, str, str]]:
        """Each with its rank, from the most important on, and its style; the bar is empty."""
        pace = self._pace
        yield 6, "Embedding", "none"
        yield 3, "", "none"
        yield 0, f"{pace.done}/{pace.total} files", "progress.download"
        if pace.audio:
            yield 5, f"{hours(pace.audio)} of audio", "progress.filesize"
        if (speed := pace.speed) is not None:
            yield 2, times_real(speed), "progress.data.speed"
        yield 4, clock(pace.elapsed), "progress.elapsed"
        if (left := pace.left) is not None:
            yield 1, f"{about(left)} left", "progress.remaining"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """The facts that a line has room for, and a bar that takes the rest; the long file."""
        yield from self._bar(console, options)
        if long_file := self._long_file():
            yield Segment.line()
            yield Segment(_fitted(f"{_GAP}{long_file}", options.max_width))

    def _bar(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        facts = list(self._facts())
        least, most = _BAR_CELLS
        room = options.max_width + len(_GAP)
        ranks = set[int]()
        for rank, text, _ in sorted(facts):
            cells = (cell_len(text) or least) + len(_GAP)
            if cells > room:
                break
            ranks.add(rank)
            room -= cells
        shown = [(text, style) for rank, text, style in facts if rank in ranks]
        for number, (text, style) in enumerate(shown):
            if number:
                yield Segment(_GAP)
            if text:
                yield Segment(text, console.get_style(style))
            else:
                width = min(most, least + room)
                bar = ProgressBar(1.0, self._pace.fraction, width=width)
                # Padded: without colours the rest of it is not drawn.
                yield from Segment.adjust_line_length(list(console.render(bar, options)), width)


def _fitted(text: str, cells: int) -> str:
    """A line of at most ``cells`` columns, without what would move the cursor."""
    printable = "".join(char if char.isprintable() else "?" for char in text)
    if cell_len(printable) <= cells:
        return printable
    return set_cell_size(printable, cells - 1) + "…"
