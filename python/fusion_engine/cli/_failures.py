"""What ``embed`` says of files that fail: a few at once, and all of them by kind at the end."""

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import FusionEngineError
from ._app import as_options, print_message
from ._findings import Files

# Failures that are said as they come, besides the first of each kind.
_SAID = 5


class FailureReport:
    """Says the first failures as they come, and counts all.

    Args:
        errors: the file that will have the reasons of all.

    Attributes:
        count: files that failed.
    """

    def __init__(self, errors: str | os.PathLike[str]) -> None:
        self._errors = errors
        self._kinds = dict[str, Files]()
        self._said, self._more = 0, False
        self._kinds_said = set[str]()
        self.count = 0

    def add(self, path: Path, error: FusionEngineError) -> None:
        """Count a file, and say why it failed if few did, or none for a reason of this kind."""
        self.count += 1
        self._kinds.setdefault(error.kind, Files()).add(os.fspath(path))
        self.say(error)

    def say(self, error: FusionEngineError) -> None:
        """Say the reason alone."""
        if self._said < _SAID or error.kind not in self._kinds_said:
            self._said += 1
            self._kinds_said.add(error.kind)
            print_message(f"failed: {as_options(str(error))}")
        elif not self._more:
            self._more = True
            print_message(f"more files failed; their reasons will be in {self._errors}")

    def kinds(self) -> Iterator[str]:
        """A line for each kind, the most frequent one first."""
        for kind, files in sorted(self._kinds.items(), key=lambda item: -item[1].count):
            yield f"  {kind}: {files}"
