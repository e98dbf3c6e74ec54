"""Names of what is in the probe's cache: digests of all that an embedding depends on.

The content of the audio files is part of it. So nothing that has changed can be served, and a run
that was stopped is resumed by asking for the same names again.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._atomic import atomic_path, create_folder, write_error
from .._json import seal, unseal
from ..artifact import file_sha256
from ..errors import AudioError

# Raised when the same name would mean other numbers.
CACHE_VERSION = 2

# A file that was changed so shortly before it was hashed could change again with the same time
# stamp (2 s is the coarsest in use), so its digest is not kept.
_SETTLED_NS = 2_000_000_000
_HASH_THREADS = 8

Signature = tuple[int, ...]


def key_of(description: Any) -> str:
    """The SHA-256 of ``description`` as canonical JSON, in hexadecimal."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def signature(path: Path) -> Signature:
    """What changes with a file's content: no program can set back the time of the last change.

    Raises:
        OSError: no such file.
    """
    info = path.stat()
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_dev


@dataclass(frozen=True)
class AudioFile:
    """A file as it was when it was hashed."""

    path: Path
    sha256: str
    signature: Signature

    def check_unchanged(self) -> None:
        """Raise an AudioError where the file is no longer what was hashed."""
        if _signature(self.path) != self.signature:
            raise AudioError(
                f"{self.path}: changed while its task was being embedded, expected the files of a "
                "task to stay as they are; run it again"
            )


def audio_files(paths: Sequence[Path], folder: Path) -> list[AudioFile]:
    """The digests of ``paths``, in their order.

    A digest is kept in an index below ``folder`` and believed for as long as size, inode, time of
    modification and time of change stay the same; any other file is read and hashed again.

    Raises:
        AudioError: a file that is missing or cannot be read.
        FusionEngineError: the index cannot be written.
    """
    absolute = [path.absolute() for path in paths]
    common = os.path.commonpath([path.parent for path in absolute])
    index = folder / f"{key_of(common)}.json"
    known = _read_index(index)

    def look(path: Path) -> tuple[AudioFile, bool]:
        now = _signature(path)
        entry = known.get(str(path))
        if entry is not None and tuple(entry[1]) == now:
            return AudioFile(path, entry[0], now), True
        started = time.time_ns()
        try:
            digest = file_sha256(path)
        except OSError as error:
            raise AudioError(f"{path}: {error.strerror}, expected a readable audio file") from error
        file = AudioFile(path, digest, now)
        file.check_unchanged()
        return file, started - max(now[1], now[2]) > _SETTLED_NS

    with ThreadPoolExecutor(_HASH_THREADS, thread_name_prefix="fusion_engine-hash") as pool:
        looked = list(pool.map(look, absolute))
    settled = {str(file.path): [file.sha256, list(file.signature)] for file, sure in looked if sure}
    if any(known.get(path) != entry for path, entry in settled.items()):
        _write_index(index, known | settled)
    return [file for file, _ in looked]


def _signature(path: Path) -> Signature:
    try:
        return signature(path)
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}, expected an audio file") from error


def _read_index(path: Path) -> dict[str, Any]:
    """The entries of an index; none where it is missing or damaged."""
    try:
        entries: dict[str, Any] = unseal(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries


def _write_index(path: Path, entries: dict[str, Any]) -> None:
    create_folder(path.parent)
    with atomic_path(path) as temporary:
        temporary.write_text(seal(entries), encoding="utf-8")


def mapped(
    chunks: Iterable[NDArray[np.float32]], shape: tuple[int, int], folder: Path
) -> NDArray[np.float32]:
    """Rows [n, D] in a file without a name in ``folder``: memory does not grow with them.

    Args:
        chunks: runs of rows.
        shape: of all together.
        folder: nothing is left in it, however the program ends.

    Raises:
        FusionEngineError: the file cannot be written.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for chunk in chunks:
                # Not through a map: there a full disk would end the program.
                file.write(np.ascontiguousarray(chunk).data)
            file.flush()
            return np.memmap(file, np.float32, "r", shape=shape)
    except OSError as error:
        raise write_error(folder, error) from error
