"""What is searched for: audio files, parts of them, and rows of the table."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .._words import listed
from ..errors import FusionEngineError
from ..output import valid_text
from ..spec import Spec
from ..table_reader import Rows, TableReader

if TYPE_CHECKING:
    from ..engine import Engine

_ROW = "row:"
_PART = re.compile(r"(.+)@(\d+(?:\.\d+)?|\.\d+)?-(\d+(?:\.\d+)?|\.\d+)?", re.DOTALL)
# Seconds: times are typed as they are shown, to a millisecond.
_SLACK = 6e-4


@dataclass(frozen=True, slots=True)
class Audio:
    """A file, or the part of it from ``start`` to ``end`` seconds; ``None``: its start, its end."""

    path: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of the table, by its number."""

    number: int


Query = Audio | TableRow


def parse_query(text: str | os.PathLike[str], rows: Rows) -> Query:
    """What a query stands for.

    Args:
        text: ``PATH``, ``PATH@A-B``, ``PATH@A-`` or ``PATH@-B`` in seconds; ``row:PATH``,
            ``row:PATH@A-B`` and so on, a row of the table; ``row:#N``, its row N from 0 on. A file
            that is there by the whole name is that file, and so is what is no text but a path.
        rows: of the table.

    Raises:
        ValueError: a part that ends before it starts.
        FusionEngineError: the table has no such row, or several.
    """
    if not isinstance(text, str):
        return Audio(os.fspath(text))
    if text.startswith(_ROW):
        return TableRow(_find(text, rows))
    # Not `Path.exists`, which raises for a name that is too long.
    return Audio(text) if os.path.exists(text) else _part(text)  # noqa: PTH110


def _part(text: str) -> Audio:
    match = _PART.fullmatch(text)
    if match is None or match[2] is match[3] is None:
        return Audio(text)
    start, end = (None if time is None else float(time) for time in match.groups()[1:])
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"{text}: the part ends at {end:g} s, expected after {start or 0.0:g} s")
    return Audio(match[1], start, end)


def _find(text: str, rows: Rows) -> int:
    name = text.removeprefix(_ROW)
    if re.fullmatch(r"#\d+", name):
        number = int(name[1:])
        if number >= len(rows):
            raise FusionEngineError(
                f"{text}: the table has {len(rows)} rows, expected row:#0 to row:#{len(rows) - 1}"
            )
        return number
    given = Audio(valid_text(name))
    found = _rows_of(given, rows)
    if not found:
        given = _part(given.path)
        found = _rows_of(given, rows)
    if len(found) == 1:
        return found[0]
    there = found or _rows_of(Audio(given.path), rows)
    if there:
        raise FusionEngineError(
            f"{text}: {len(found) or 'none'} of the rows of {given.path}, expected one. There are "
            f"{listed(there, lambda number: _named(number, rows))}"
        )
    raise FusionEngineError(
        f"{text}: the table has no such path. Its paths are as they were given to `fusion-engine "
        f"embed`: {listed(list(dict.fromkeys(rows.paths[:4])), most=3)} …"
    )


def _rows_of(audio: Audio, rows: Rows) -> list[int]:
    return [
        number
        for number, path in enumerate(rows.paths)
        if path == audio.path
        and (audio.start is None or abs(rows.start[number] - audio.start) < _SLACK)
        and (audio.end is None or abs(rows.end[number] - audio.end) < _SLACK)
    ]


def _named(number: int, rows: Rows) -> str:
    channel = "" if rows.channels is None else f", channel {rows.channels[number]}"
    return f"row:#{number} ({rows.start[number]:.7g}-{rows.end[number]:.7g} s{channel})"


def vectors_of(
    queries: Sequence[Query], table: TableReader, engine: "Engine | None"
) -> NDArray[np.float64]:
    """The embeddings [Q, D] of queries.

    Args:
        queries: any mixture.
        table: that is searched.
        engine: embeds what is audio; its artifact is checked against the table's space.

    Raises:
        FusionEngineError: there is no engine and audio, or the engine is of another space.
        AudioError, NumericalError: a file or a part of it cannot be embedded.
    """
    vectors = np.empty((len(queries), table.dim))
    rows = [place for place, query in enumerate(queries) if isinstance(query, TableRow)]
    numbers = [query.number for query in queries if isinstance(query, TableRow)]
    if rows:
        vectors[rows] = table.take(numbers)
    audio = [(place, query) for place, query in enumerate(queries) if isinstance(query, Audio)]
    if audio:
        if engine is None:
            raise FusionEngineError(
                f"{audio[0][1].path}: to embed it takes the artifact that made {table.path}, "
                f"{_artifact(table)}: give it as the engine (--engine)"
            )
        check_space(table, engine)
        for place, vector in _embedded(audio, engine, table):
            vectors[place] = vector
    return vectors


def _embedded(
    audio: Sequence[tuple[int, Audio]], engine: "Engine", table: TableReader
) -> list[tuple[int, NDArray[np.float32]]]:
    from ..engine.clips import End
    from ..engine.recording import Clip, Item

    items = (
        Item(key=place, audio=query.path, parts=[(query.start, query.end)])
        for place, query in audio
    )
    found = []
    head = table.spec.head if table.spec is not None else None
    for event, result in engine.embed_items(items, head=head):
        error = event.error if isinstance(event, End) else result
        if isinstance(error, FusionEngineError):
            raise error
        if isinstance(event, Clip):
            assert isinstance(result, np.ndarray)
            found.append((event.key, result))
    return found


def open_engine(
    artifact: str | os.PathLike[str],
    table: TableReader,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> "Engine":
    """An engine that embeds what a table is searched for.

    Args:
        artifact: that made the table; a path, or a name as ``Engine`` takes it.
        table: whose normalisation of the log-mel it takes.
        device, threads: as for ``Engine``.

    Raises:
        ArtifactError, BackendError, ExportError: as ``Engine``.
    """
    from ..artifact import read_spec
    from ..engine import Engine
    from ..named import named_artifact

    path = named_artifact(artifact)
    normalization = None
    # An artifact that does not normalise is of another space, and refused for that.
    front = None if table.spec is None else table.spec.frontend
    if front and front.std is not None and read_spec(path).frontend.std is not None:
        normalization = front.mean, front.std
    return Engine(path, device=device, threads=threads, normalization=normalization)


def check_space(table: TableReader, engine: "Engine") -> None:
    """Refuse an engine whose embeddings are not to be compared with a table's.

    Raises:
        FusionEngineError: they are of two spaces, or the table does not say of which.
    """
    if table.space is None:
        raise FusionEngineError(
            f"{table.path}: does not say of which embedding space it is, so that nothing else may "
            "be compared with it; search for its rows, or embed again"
        )
    spec = engine.spec
    if table.spec is not None:
        spec = replace(spec, head=table.spec.head)
    if spec.space != table.space:
        differences = "" if table.spec is None else f": {_differences(table.spec, spec)}"
        raise FusionEngineError(
            f"{table.path}: its embeddings are of space {table.space}, the engine's of "
            f"{spec.space}{differences}. Expected {_artifact(table)}"
        )


def _artifact(table: TableReader) -> str:
    spec = table.spec
    if spec is None:
        return "whose spec the table does not hold"
    layers = " + ".join(str(layer.number) for layer in spec.layers)
    weights = f"{spec.weights.source}, SHA-256 {spec.weights.sha256}"
    return f"{spec.model}, layers {layers}, weights {weights}"


def _differences(table: Spec, engine: Spec) -> str:
    """What is not the same in two specs of different spaces."""
    found = []
    for field in fields(Spec):
        ours, theirs = getattr(table, field.name), getattr(engine, field.name)
        if field.name == "weights":
            ours, theirs = ours.sha256[:16], theirs.sha256[:16]
        elif field.name == "layers":
            ours, theirs = ([layer.number for layer in layers] for layers in (ours, theirs))
        elif field.name == "frontend":
            names = [inner.name for inner in fields(ours)]
            changed = [name for name in names if getattr(ours, name) != getattr(theirs, name)]
            ours, theirs = (
                {name: getattr(side, name) for name in changed} for side in (ours, theirs)
            )
        if ours != theirs and field.name in _SAID:
            found.append(f"{field.name} {ours} in the table, {theirs} in the engine")
    return "; ".join(found)


_SAID = (
    "model",
    "layers",
    "weights",
    "head",
    "frontend",
    "frames_per_step",
    "step_offset",
    "segment",
    "token",
    "layer_norm_eps",
)
