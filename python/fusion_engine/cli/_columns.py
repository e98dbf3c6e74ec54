"""Fields that fit a narrow terminal."""

import re
import shutil
import textwrap
from collections.abc import Iterable

from ._app import print_fields

# Where no terminal says how wide it is.
COLUMNS = 60
_FIXED = "\u00a0"  # a space that no line is broken at


def print_wrapped(fields: Iterable[tuple[str, str]], indent: str = "") -> None:
    """As ``print_fields``, with long values broken between words.

    A shape in brackets stays whole, and so does a name, a hash or a URL that is longer than a line.
    A hash stays beside the word before it.
    """
    fields = list(fields)
    taken = len(indent) + max(len(name) for name, _ in fields) + 2
    width = max(20, shutil.get_terminal_size((COLUMNS, 24)).columns - taken)

    def wrapped(line: str) -> str:
        kept = re.sub(r" (?=\S{64})", _FIXED, line)
        kept = re.sub(r"\[[^\]]*\]", lambda shape: shape[0].replace(" ", _FIXED), kept)
        text = textwrap.fill(kept, width, break_long_words=False, break_on_hyphens=False)
        return text.replace(_FIXED, " ")

    print_fields(
        [(name, "\n".join(map(wrapped, value.splitlines()))) for name, value in fields], indent
    )
