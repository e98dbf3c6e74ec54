"""What was written, on the disk itself: there after a power cut."""

import errno
import os


def sync(path: str | os.PathLike[str]) -> None:
    """Wait until a file's content, or a folder's names, are on the disk.

    Raises:
        OSError: of ``path``, where the disk is full or failing.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know none of a folder.
        if error.errno != errno.EINVAL:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        os.close(descriptor)
