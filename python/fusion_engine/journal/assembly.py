"""The rows of keys in a given order, out of parts that came in another."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from ..output import Row
from .index import Index, Kept, Place
from .part import Batch, PartReader


class _Share(NamedTuple):
    """How many rows of a stretch are of a key."""

    key: str
    kept: Kept
    rows: int


@dataclass(slots=True)
class _Stretch:
    """Rows that are wanted one after the other, and are so in a part."""

    place: Place
    shares: list[_Share] = field(default_factory=list)

    def take(self, place: Place, share: _Share) -> None:
        """Add the rows at ``place``, which follow."""
        self.place = self.place._replace(rows=self.place.rows + place.rows)
        self.shares.append(share)


def assemble(
    index: Index, order: Iterable[str], reader: PartReader, most_rows: int
) -> Iterator[Batch]:
    """The rows of the complete keys of ``order``, at most ``most_rows`` at a time.

    Raises:
        DamagedPart: one is damaged, or gone.
    """
    for stretch in _stretches(index, order, most_rows):
        shares = [share for share in stretch.shares for _ in range(share.rows)]
        columns, embeddings = reader.read(stretch.place, [share.key for share in shares])
        rows = []
        for share, *values in zip(shares, *columns.values(), strict=True):
            fields = dict(zip(columns, values, strict=True))
            final = {"duration": share.kept.duration, "partial": share.kept.partial}
            rows.append(Row(path=share.key, **(fields | final)))
        yield rows, embeddings


def _stretches(index: Index, order: Iterable[str], most_rows: int) -> Iterator[_Stretch]:
    stretch: _Stretch | None = None
    for key in order:
        kept = index.get(key)
        if kept is None or kept.duration is None:
            continue
        for place in chain.from_iterable(_pieces(place, most_rows) for place in kept.places):
            if stretch is None or not _follows(stretch.place, place, most_rows):
                if stretch is not None:
                    yield stretch
                stretch = _Stretch(place._replace(rows=0))
            stretch.take(place, _Share(key, kept, place.rows))
    if stretch is not None:
        yield stretch


def _pieces(place: Place, most_rows: int) -> Iterator[Place]:
    for done in range(0, place.rows, most_rows):
        yield Place(place.part, place.first + done, min(most_rows, place.rows - done))


def _follows(before: Place, place: Place, most_rows: int) -> bool:
    end = (before.part, before.first + before.rows)
    return (place.part, place.first) == end and before.rows + place.rows <= most_rows
