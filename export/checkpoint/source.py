"""A checkpoint file opened for reading, once it is a regular file of a sensible size."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from ...errors import ExportError

# Six times what the largest of the models takes with its optimiser's state in FP64.
LARGEST_FILE = 16 * 2**30
# What the tensors of a state dict may take; the largest model takes 0.7 GB in FP64.
LARGEST_STATE = 4 * 2**30
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Unreadable(Exception):
    """Why a file is no checkpoint that can be read, as the end of a sentence."""


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """``path`` for reading.

    Raises:
        ExportError: no regular file, none that can be read, one that is too large.
    """
    try:
        # Looked at before it is opened: to open a device or a FIFO can have effects.
        _check(path, path.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ExportError(
            f"weights {path}: {reason}; expected 'pretrained', 'random:SEED' or the path "
            "of a checkpoint"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        _check(path, os.fstat(descriptor))
        yield file


def _check(path: Path, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        kind = next((name for test, name in _KINDS if test(info.st_mode)), "something else")
        raise ExportError(f"weights {path}: expected a checkpoint file, got {kind}")
    if info.st_size > LARGEST_FILE:
        raise ExportError(
            f"weights {path}: {info.st_size / 1e9:.1f} GB, more than a checkpoint of one of these "
            "models takes; save its state dict alone"
        )


_KINDS_BY_START = (
    (b"\x1f\x8b", "it is compressed with gzip: unpack it"),
    (b"BZh", "it is compressed with bzip2: unpack it"),
    (b"\xfd7zXZ", "it is compressed with xz: unpack it"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes it, not PyTorch's"),
    (b"\x93NUMPY", "it is a NumPy array"),
)
_TEXT_BY_START = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file: run `git lfs pull`"),
    (b"<!doctype", "it is an HTML page that was saved in place of the file"),
    (b"<html", "it is an HTML page that was saved in place of the file"),
    (b"{", "it is JSON text"),
)


def guess_kind(head: bytes) -> str:
    """What a file that begins with ``head`` seems to be, if it is no checkpoint."""
    if not head:
        return "it is empty, a download that was truncated at its start"
    for start, kind in _KINDS_BY_START:
        if head.startswith(start):
            return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, kind in _TEXT_BY_START:
        if text.startswith(start):
            return kind
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head):
        return "it is text"
    return "it is another kind of file, or truncated"
