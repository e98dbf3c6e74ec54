"""Where the rows of a job go in the end: a file, or a folder as a dataset."""

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .._atomic import write_error
from .._sync import sync
from ..errors import FusionEngineError
from ..output import (
    Dtype,
    Row,
    Table,
    check_clips,
    check_dtype,
    check_format,
    open_writer,
    read_job,
    remove_output,
)
from .dataset import DatasetWriter, first_file, is_dataset_file
from .folder import JobFolder
from .settings import JobSettings, described, differences


class Writer(Protocol):
    """Takes the rows of an output in order."""

    def write(self, rows: Sequence[Row], embeddings: NDArray[np.float32]) -> None:
        """Append n rows, embeddings [n, D]."""


class Destination(ABC):
    """An output that appears, or is replaced, whole.

    Args:
        given: the path.
        settings: of the job that writes it.
        overwrite: replace an output that other settings made.

    Attributes:
        given: the path as it was given.
        path: the same, no link.
    """

    def __init__(self, given: Path, settings: JobSettings, *, overwrite: bool) -> None:
        self.given = given
        self.path = Path(os.path.realpath(given))
        self._settings, self._overwrite = settings, overwrite

    @abstractmethod
    def exists(self) -> bool:
        """Whether something is there that would be replaced."""

    @abstractmethod
    def job(self) -> str | None:
        """What the output that is there says of the job that made it."""

    @abstractmethod
    def writer(self, folder: JobFolder, table: Table) -> AbstractContextManager[Writer]:
        """Write the output: it is in its place when the block ends.

        Raises:
            FusionEngineError: it cannot be written.
        """

    @abstractmethod
    def remove(self, folder: JobFolder) -> bool:
        """Remove the output of an earlier run; whether there was one.

        Raises:
            FusionEngineError: it cannot be removed.
        """

    @abstractmethod
    def check_rows(self, rows: int) -> None:
        """Refuse more rows than it takes.

        Raises:
            FusionEngineError: they are too many.
        """

    @abstractmethod
    def recover(self, folder: JobFolder) -> None:
        """Mend what a process left that was killed while it replaced the output."""

    def check_replaceable(self) -> None:
        """Refuse to replace an output that other settings made.

        Raises:
            FusionEngineError: there is one.
        """
        if self._overwrite or not self.exists():
            return
        made_with = described(self.job())
        if made_with is None:
            raise FusionEngineError(
                f"{self.given} is there, and does not say which settings made it; choose another "
                "path, or replace it with --overwrite"
            )
        found = differences(self._settings, made_with)
        if found:
            raise FusionEngineError(
                f"{self.given} is there, made with other settings ({found}); choose another path, "
                "or replace it with --overwrite"
            )

    def sync(self) -> None:
        """Wait until the name of the output is on the disk.

        Raises:
            FusionEngineError: the disk is failing.
        """
        try:
            sync(self.path.parent)
        except OSError as error:
            raise write_error(self.given, error) from error


class _File(Destination):
    def exists(self) -> bool:
        return self.path.exists()

    def job(self) -> str | None:
        return read_job(self.given)

    def writer(self, folder: JobFolder, table: Table) -> AbstractContextManager[Writer]:
        return open_writer(
            self.given,
            table.spec,
            channels=table.channels,
            dtype=table.dtype,
            job=table.job,
        )

    def remove(self, folder: JobFolder) -> bool:
        return remove_output(self.given)

    def check_rows(self, rows: int) -> None:
        check_clips(self.given, rows)

    def recover(self, folder: JobFolder) -> None:
        """Nothing: a rename replaces a file."""


class _Folder(Destination):
    def exists(self) -> bool:
        return self.path.is_dir() and any(self.path.iterdir())

    def job(self) -> str | None:
        return read_job(first_file(self.path))

    def check_replaceable(self) -> None:
        others = sorted(self._others())
        if others:
            raise FusionEngineError(
                f"cannot write {self.given}/: it holds {others[0].name}, expected a new folder, an "
                "empty one, or a dataset of an earlier run; choose another path"
            )
        super().check_replaceable()

    def check_rows(self, rows: int) -> None:
        """As many as there are."""

    def _others(self) -> list[Path]:
        """What is in the folder beside a dataset."""
        if not self.exists():
            return []
        return [path for path in self.path.iterdir() if not is_dataset_file(path)]

    @contextmanager
    def writer(self, folder: JobFolder, table: Table) -> Iterator[Writer]:
        with self._errors():
            folder.staged.mkdir()
            with DatasetWriter(folder.staged, table) as writer:
                yield writer
            # A rename replaces no folder but an empty one.
            self._set_aside(folder)
            folder.staged.rename(self.path)
            self.sync()
            self._drop_replaced(folder)

    def remove(self, folder: JobFolder) -> bool:
        with self._errors():
            there = self._set_aside(folder)
            self._drop_replaced(folder)
        return there

    def recover(self, folder: JobFolder) -> None:
        with self._errors():
            if folder.replaced.exists() and not self.exists():
                folder.replaced.rename(self.path)
            self._drop_replaced(folder)

    def _set_aside(self, folder: JobFolder) -> bool:
        there = self.exists()
        if there:
            self.path.rename(folder.replaced)
        return there

    def _drop_replaced(self, folder: JobFolder) -> None:
        if folder.replaced.exists():
            shutil.rmtree(folder.replaced)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(self.given, error) from error


def destination(
    output: str | os.PathLike[str], dtype: Dtype, settings: JobSettings, *, overwrite: bool
) -> Destination:
    """Where ``output`` is: a folder if it ends in a slash or is one, a file by its suffix.

    Raises:
        ValueError: a suffix or dtype that is not written.
    """
    given = Path(output)
    if os.fspath(output).endswith("/") or given.is_dir():
        check_dtype(dtype)
        return _Folder(given, settings, overwrite=overwrite)
    check_format(given, dtype)
    return _File(given, settings, overwrite=overwrite)
