"""The map as one page that needs nothing else: code, style and data are in it."""

import base64
import hashlib
import html
import json
import os
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._atomic import atomic_path
from ..output import valid_text
from ..table_reader import TableReader
from .groups import DARK, LIGHT, OTHER_DARK, OTHER_LIGHT, Groups
from .projection import Projection
from .recordings import Recordings


def write_page(
    path: str | os.PathLike[str],
    table: TableReader,
    projection: Projection,
    groups: Groups,
    recordings: Recordings,
    *,
    embed_audio: bool = False,
) -> None:
    """Write the page; see ``docs/map.md``.

    Args:
        path: the ``.html`` to write.
        table: n rows.
        projection: of them.
        groups: of them.
        recordings: of them.
        embed_audio: put the recordings into the page too.

    Raises:
        FusionEngineError: the recordings are too many for a page, or it cannot be written.
    """
    audio = recordings.embedded() if embed_audio else {}
    channels = table.rows.channels
    title = valid_text(table.path.name)
    data = {
        "title": title,
        "made": _made(table, projection),
        "count": len(table.rows),
        "points": _base64(np.rint((projection.points + 1) * 32767.5).astype("<u2")),
        "start": _base64(table.rows.start.astype("<f8")),
        "end": _base64(table.rows.end.astype("<f8")),
        "channel": None if channels is None else _base64(channels.astype("<i4")),
        "file": _base64(recordings.of_row.astype("<u4")),
        "files": recordings.links(path),
        "by": groups.by,
        "label": _base64(groups.of_row.astype("<u4")),
        "labels": groups.names,
        "colour": _base64(groups.colours),
        "legend": groups.legend,
        "light": [*LIGHT, OTHER_LIGHT],
        "dark": [*DARK, OTHER_DARK],
    }
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(_parts(title, {"data": data, "audio": audio}))


def _parts(title: str, blocks: dict[str, Any]) -> Iterator[str]:
    """The page with its blocks of JSON, which a browser does not run."""
    script, style = _asset("map.js"), _asset("map.css")
    # The plotting library appends a style element that is empty, and fills it by calls.
    styles = f"{_source(style)} {_source('')}"
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {styles}; "
        "media-src 'self' file: blob:; base-uri 'none'; form-action 'none'"
    )
    values = {
        "policy": policy,
        "title": html.escape(title),
        "style": style,
        "script": script,
        "licences": html.escape(_asset("licences.txt")),
    }
    for number, part in enumerate(_asset("map.html").split("{{")):
        name, end, text = part.partition("}}") if number else ("", "", part)
        if end:
            yield _json(blocks[name]) if name in blocks else values[name]
        yield text


def _json(value: Any) -> str:
    """JSON in which nothing ends the element that it is in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _source(text: str) -> str:
    """What a content security policy calls an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _made(table: TableReader, projection: Projection) -> str:
    model = "" if table.spec is None else f", {table.spec.model}"
    return f"{table.dim}-d embeddings{model} · {projection.text}"


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
