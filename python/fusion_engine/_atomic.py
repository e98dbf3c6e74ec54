"""Files that appear whole or not at all."""

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import FusionEngineError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ADVICE = {
    errno.ENOENT: "create the folder first, or choose another one",
    errno.ENOTDIR: "choose a path inside a folder",
    errno.EISDIR: "choose a file name that is not a folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    **dict.fromkeys(_FULL, "free some space, or choose a folder on another disk"),
}

_SPECIAL = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_PREFIX = ".fusion_engine-"


def write_error(path: str | os.PathLike[str], error: OSError) -> FusionEngineError:
    """``error``, met while writing ``path``, as a message that says what to do."""
    code = error.errno or 0
    reason = os.strerror(code) if code else str(error)
    advice = _ADVICE.get(code, "choose another path")
    return FusionEngineError(f"cannot write {os.fspath(path)}: {reason}; {advice}")


def create_folder(folder: Path) -> None:
    """Create a folder, and those that it is in, where it is missing.

    Raises:
        FusionEngineError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new temporary file in the folder of ``path``, which becomes ``path`` on success.

    The temporary file exists, is empty and has the suffix of ``path``. It is removed on any
    exception, and a file that was at ``path`` is untouched until the end. Symbolic links are
    followed, so a link stays a link. What killed processes left in the folder is removed.

    Raises:
        FusionEngineError: a missing or unwritable folder, a folder, pipe, socket or device in place
            of the file, a full disk; also when the body raises an ``OSError`` that says so.
    """
    target = Path(os.path.realpath(path))
    _refuse_special(path)
    _sweep(target.parent)
    try:
        temporary, lock = _create(target)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        # Other files may be read or written inside the body: their errors pass as they are.
        if error.errno in _FULL or str(error.filename) == str(temporary):
            raise write_error(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)


def refuse_inputs(path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Check that writing ``path`` replaces none of the ``inputs``, by any name or link.

    Raises:
        FusionEngineError: it would.
    """
    target = os.path.realpath(path)
    for given in inputs:
        if target == os.path.realpath(given) or _same_file(target, given):
            raise FusionEngineError(
                f"cannot write {os.fspath(path)}: it is the input {os.fspath(given)}; choose "
                "another path"
            )


def _same_file(path: str, other: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).samefile(other)
    except OSError:
        return False


def _refuse_special(path: str | os.PathLike[str]) -> None:
    """Refuse what is neither a regular file nor nothing: a rename would replace it."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return  # creating the file beside it says what is wrong
    if stat.S_ISDIR(mode):
        error = IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        raise write_error(path, error)
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _SPECIAL if test(mode)), "no regular file")
        raise FusionEngineError(
            f"cannot write {os.fspath(path)}: it is {kind}, expected a regular file or a new one; "
            "choose another path"
        )


def _create(target: Path) -> tuple[Path, int]:
    """A new empty file beside ``target``, and the descriptor whose lock says that it is in use."""
    while True:
        temporary = target.with_name(f"{_PREFIX}{secrets.token_hex(8)}{target.suffix}")
        # Not `tempfile`: its files are private to the user, and this one outlives the program.
        lock = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        # Some network file systems know no locks: nobody removes a file there.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Another process may have swept it away before the lock was there.
        if os.fstat(lock).st_nlink:
            return temporary, lock
        os.close(lock)


# Once a process is enough, and a cache's folder may hold very many files.
_swept = set[str]()


def _sweep(folder: Path) -> None:
    """Remove the temporary files in ``folder`` whose process is gone.

    A lock ends with its process, however that ends, and it holds across containers, where a process
    number says nothing.
    """
    if str(folder) in _swept:
        return
    _swept.add(str(folder))
    # Only what one may: this is a courtesy, and the file to write is not concerned.
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.is_file(follow_symlinks=False):
                _remove_unused(Path(entry.path))


def _remove_unused(path: Path) -> None:
    with suppress(OSError):
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(file)
