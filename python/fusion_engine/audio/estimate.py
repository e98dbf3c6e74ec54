"""What a corpus holds and would become, by a look at its files' headers."""

import itertools
import os
import random
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .arrays import check_rate
from .container import Glance, PatchedFile, glance
from .listing import Listed
from .nonaudio import nonaudio_kind

# Files that are looked at where there are more.
MAX_LOOKS = 2_000
# Bytes per second assumed of a file whose header has neither length nor bit rate: 128 kbit/s.
ASSUMED_RATE = 16_000
# No audio has fewer bytes per second, but silence in FLAC.
_LEAST_RATE = 100
# A look waits for the disk or the network most of its time.
_THREADS = 16
_HEAD_BYTES = 1_024
# Of a row in Parquet, without path and numbers: where the two end, start, end, duration and flags.
_ROW_BYTES = 2 * 4 + 3 * 8 + 3 / 8


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a run would take and give; all but ``files`` is an estimate where files were sampled.

    Attributes:
        files: how many there are.
        sampled: how many of them were looked at; the others are taken to be like these.
        size: the files' bytes.
        seconds: of audio to embed, in all files and parts.
        rows: of the table.
        output_size: bytes of the table.
        unreadable: of the sampled files, how many cannot be opened or are no audio, by the reason.
        guessed: of the sampled files, how many state no length: estimated by their bytes.
    """

    files: int
    sampled: int
    size: int
    seconds: float
    rows: int
    output_size: int
    unreadable: Counter[str] = field(default_factory=Counter)
    guessed: int = 0


def survey(
    items: Iterable[Path | Listed],
    sample_rate: int,
    row_count: Callable[[int], int],
    row_bytes: int,
    *,
    all_channels: bool = False,
    advance: Callable[[int], None] | None = None,
) -> Survey:
    """Look at the headers of up to ``MAX_LOOKS`` files, spread evenly over all.

    Nothing is decoded, and what a header says is believed. The same files give the same sample.

    Args:
        items: the files, and parts of files.
        sample_rate: of the model, in Hz.
        row_count: the rows of a recording, or of a part of one, of so many samples at
            ``sample_rate``, at least one.
        row_bytes: the bytes of a row's embedding.
        all_channels: each channel has rows of its own.
        advance: called with 1 after each file that was looked at.

    Raises:
        TypeError: a ``sample_rate`` that is no integer.
        ValueError: a ``sample_rate`` out of range.
    """
    rate = check_rate(sample_rate)
    parts = dict[Path, list[Listed]]()
    for item in items:
        entry = item if isinstance(item, Listed) else Listed(item)
        parts.setdefault(entry.path, []).append(entry)
    sample = _spread(list(parts), MAX_LOOKS)
    unreadable, guessed, size, seconds = Counter[str](), 0, 0, 0.0
    rows, names = 0, 0
    # Where `advance` ends the work, `map` drops the files that are not looked at yet.
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, look in zip(sample, pool.map(_look, sample), strict=True):
            size += look.size
            if isinstance(look.seen, str):
                unreadable[look.seen] += 1
            else:
                guessed += not look.seen.stated
                lengths = [_length(part, look.seen.seconds) for part in parts[path]]
                seconds += sum(lengths)
                samples = filter(None, (round(length * rate) for length in lengths))
                each = sum(map(row_count, samples)) * (look.seen.channels if all_channels else 1)
                rows += each
                names += each * len(os.fsencode(path))
            if advance is not None:
                advance(1)
    scale = len(parts) / max(1, len(sample))
    return Survey(
        files=len(parts),
        sampled=len(sample),
        size=round(size * scale),
        seconds=seconds * scale,
        rows=round(rows * scale),
        output_size=round((rows * (row_bytes + _ROW_BYTES) + names) * scale),
        unreadable=unreadable,
        guessed=guessed,
    )


def _spread(paths: Sequence[Path], most: int) -> Sequence[Path]:
    """One of each of ``most`` stretches of about the same length; all where there are less.

    Chance chooses in the stretch: files at equal distances may have more in common.
    """
    count = len(paths)
    if count <= most:
        return paths
    chance = random.Random(0)
    edges = [i * count // most for i in range(most + 1)]
    return [paths[chance.randrange(start, end)] for start, end in itertools.pairwise(edges)]


def stated_seconds(path: str | os.PathLike[str]) -> float | None:
    """How long a file is by its header alone; None if that does not say it.

    A damaged header may state years: no more is believed than the bytes can hold.
    """
    try:
        info = os.stat(path)  # noqa: PTH116 (a path of a million)
        # Opening a pipe would wait for its writer.
        if not stat.S_ISREG(info.st_mode):
            return None
        with PatchedFile(path) as file:
            seen = glance(file, info.st_size)
    except OSError:
        return None
    return None if seen is None else min(seen.seconds, info.st_size / _LEAST_RATE)


def spread_lengths(paths: Sequence[Path], most: int) -> list[float | None]:
    """``stated_seconds`` of up to ``most`` files in order, spread evenly over all."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(stated_seconds, _spread(paths, most)))


@dataclass(frozen=True)
class _Look:
    size: int
    # What its header says, or why it cannot be embedded.
    seen: Glance | str


def _look(path: Path) -> _Look:
    size = 0
    try:
        info = path.stat()
        # Opening a pipe would wait for its writer.
        if not stat.S_ISREG(info.st_mode):
            return _Look(0, "a folder" if stat.S_ISDIR(info.st_mode) else "not a regular file")
        size = info.st_size
        if size == 0:
            return _Look(0, "empty")
        with PatchedFile(path) as file:
            seen = glance(file, size)
            other = nonaudio_kind(file.read(_HEAD_BYTES)) if seen is None else None
    except OSError as error:
        return _Look(size, error.strerror or str(error))
    if other is not None:
        return _Look(size, f"{_kind(other)}, not audio")
    return _Look(size, seen or Glance(size / ASSUMED_RATE, 1, stated=False))


def _kind(description: str) -> str:
    """Without what is of one file alone."""
    return description.partition(",")[0].partition(" (")[0]


def _length(part: Listed, seconds: float) -> float:
    end = seconds if part.end is None else min(part.end, seconds)
    return max(0.0, end - (part.start or 0.0))
