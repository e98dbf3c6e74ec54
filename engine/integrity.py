"""Whether an `.onnx` artifact is the file that its report was written for."""

import json
import logging
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from ..artifact import file_sha256, report_path
from ..errors import ArtifactError, BackendError

logger = logging.getLogger(__name__)

# SHA-256 by path, size, time of change and file number.
_known: dict[tuple[str, int, int, int], str] = {}


class Check:
    """Compares the SHA-256 of an artifact with the one in the report beside it, in a thread.

    A context manager: the thread works while the block loads the same file, and the comparison is
    made at the block's end. Without a report, or with one that states no SHA-256, nothing is
    compared. External data is not covered: the SHA-256 is that of the `.onnx` file.

    Raises:
        ArtifactError: they differ.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._expected = _stated_sha256(path)
        self._result: str | OSError | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._expected is not None:
            self._thread = threading.Thread(target=self._hash, name="fusion_engine-sha256")
            try:
                self._thread.start()
            except RuntimeError:  # no thread can be started
                self._thread = None
                self._hash()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.join()
        if isinstance(self._result, OSError):
            raise ArtifactError(f"{self._path}: cannot be read ({self._result})") from self._result
        if self._expected is not None and self._result is None:
            raise BackendError(f"{self._path}: not enough memory to check its SHA-256") from error
        # Goes before what the library makes of a file that is not the one that was written.
        if self._result != self._expected and not isinstance(error, KeyboardInterrupt):
            raise ArtifactError(
                f"{self._path}: its SHA-256 is {self._result}, and {report_path(self._path)} says "
                f"{self._expected}: the file is damaged or another one. Copy or export it again; "
                "if it was changed on purpose, delete the report."
            ) from error

    def _hash(self) -> None:
        try:
            self._result = _sha256(self._path)
        except OSError as error:
            self._result = error
        except MemoryError:
            pass


def _stated_sha256(path: Path) -> str | None:
    """What the report says; ``None`` without a report that can be read."""
    report = report_path(path)
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s cannot be read (%s): the artifact was not checked", report, error)
        return None
    stated = content.get("sha256") if isinstance(content, dict) else None
    return stated if isinstance(stated, str) else None


def _sha256(path: Path) -> str:
    """SHA-256 of a file, computed once in a process for one state of it."""
    status = os.stat(path)  # noqa: PTH116 - follows links, as reading does
    key = str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino
    if key not in _known:
        _known[key] = file_sha256(path)
    return _known[key]
