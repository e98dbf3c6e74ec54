"""Files that appear whole or not at all."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
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


def write_error(path: str | os.PathLike[str], error: OSError) -> FusionEngineError:
    """``error``, met while writing ``path``, as a message that says what to do."""
    code = error.errno or 0
    reason = os.strerror(code) if code else str(error)
    advice = _ADVICE.get(code, "choose another path")
    return FusionEngineError(f"cannot write {os.fspath(path)}: {reason}; {advice}")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new temporary file in the folder of ``path``, which becomes ``path`` on success.

    The temporary file exists, is empty and has the suffix of ``path``. It is removed on any
    exception, and a file that was at ``path`` is untouched until the end. Symbolic links are
    followed, so a link stays a link.

    Raises:
        FusionEngineError: a missing or unwritable folder, a folder in place of the file, a full
            disk; also when the body raises an ``OSError`` that says so.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".fusion_engine-{secrets.token_hex(8)}{target.suffix}")
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        # Not `tempfile`: its files are private to the user, and this one outlives the program.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
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
