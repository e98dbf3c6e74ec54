"""The folder ``OUT.parts`` beside an output, held by one process at a time."""

import fcntl
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Self

from .._atomic import write_error
from ..errors import FusionEngineError
from ..journal.part import part_numbers, part_path

logger = logging.getLogger(__name__)

_TEMPORARY = ".fusion_engine-*"


class JobFolder:
    """A job's folder; a context manager that creates and holds it.

    One without parts is removed when it is let go of.

    Args:
        output: the output's path, no link.

    Attributes:
        path: of the folder.
        settings: ``job.json``, the settings of the run that began the job.
        staged: a dataset that is being written.
        replaced: a dataset that is being replaced.

    Raises:
        FusionEngineError: it cannot be created, or another process holds it.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self.path = Path(f"{output}.parts")
        self.settings = self.path / "job.json"
        self.staged = self.path / ".fusion_engine-staged"
        self.replaced = self.path / ".fusion_engine-replaced"
        self._lock_path = self.path / "lock"
        self._lock = -1
        self._owner = os.getpid()

    def parts(self) -> list[int]:
        """The numbers of the parts that are there, in order."""
        return part_numbers(self.path)

    def remove_parts(self) -> None:
        """Remove every part, the last one first: those before it stay of use till the end.

        Raises:
            FusionEngineError: they cannot be removed.
        """
        try:
            for number in reversed(self.parts()):
                part_path(self.path, number).unlink()
        except OSError as error:
            raise write_error(self.path, error) from error

    def __enter__(self) -> Self:
        try:
            self._lock = self._hold()
        except OSError as error:
            raise write_error(self.path, error) from error
        try:
            self._check_own()
            self._sweep()
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, OSError):
                raise write_error(self.path, error) from error
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            # A fork that unwinds its copy of the stack has nothing to remove.
            if os.getpid() == self._owner and not self.parts():
                self._remove()
        finally:
            os.close(self._lock)

    def _hold(self) -> int:
        """Create the folder and lock it."""
        while True:
            self.path.mkdir(exist_ok=True)
            try:
                lock = os.open(self._lock_path, os.O_CREAT | os.O_RDWR, 0o666)
            except FileNotFoundError:
                continue  # who held it has just removed the folder
            try:
                self._take(lock)
            except BaseException:
                os.close(lock)
                raise
            # Who held it may have removed the file that is locked now.
            if os.fstat(lock).st_nlink:
                return lock
            os.close(lock)

    def _take(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
            raise FusionEngineError(
                f"{self._output} is being written by process {holder or '(unknown)'}, expected one "
                "run at a time; wait for it, or choose another path"
            ) from None
        except OSError as error:
            # Some network file systems know no locks.
            logger.warning("%s cannot be locked: %s", self.path, error.strerror)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def _check_own(self) -> None:
        """Refuse a folder of that name that no job made: it is written before the first part."""
        if self.parts() and not self.settings.exists():
            self._lock_path.unlink()
            raise FusionEngineError(
                f"{self.path} holds Parquet files and no {self.settings.name}, expected the rows "
                "of an earlier run, or nothing; move it away, or choose another output"
            )

    def _sweep(self) -> None:
        """Remove what a killed process was about to write."""
        for file in self.path.glob(_TEMPORARY):
            if file.is_file():
                file.unlink()
        if self.staged.exists():
            shutil.rmtree(self.staged)

    def _remove(self) -> None:
        # Only what one may, and what is known: the output is written, and others' files stay.
        with suppress(OSError):
            for file in (self.settings, self._lock_path):
                file.unlink(missing_ok=True)
            self.path.rmdir()
