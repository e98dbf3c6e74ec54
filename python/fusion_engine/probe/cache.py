"""The probe's cache on disk: blocks of embeddings named by what they are made of.

A block's name is the SHA-256 of everything that its numbers depend on, the content of the audio
files included. So nothing that has changed can be served, and no list of what is there needs to be
kept: a run that was stopped is resumed by asking for the same names again.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._atomic import atomic_path, write_error
from ..artifact import file_sha256
from ..errors import AudioError

# Raised when the same name would mean other numbers.
CACHE_VERSION = 1

_DIGEST_BYTES = 32
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


class BlockStore:
    """Blocks of embeddings, a file each: SHA-256 of name and rows, then the rows, float32 LE.

    Args:
        folder: created when the first block is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, key: str) -> Path:
        """Where the block ``key`` is kept."""
        return self._folder / key[:2] / f"{key}.block"

    def load(self, key: str, shape: tuple[int, int]) -> NDArray[np.float32] | None:
        """The block, or ``None`` where it is missing or damaged."""
        try:
            content = self.path(key).read_bytes()
        except OSError:
            return None
        rows = content[_DIGEST_BYTES:]
        if len(rows) != 4 * shape[0] * shape[1] or content[:_DIGEST_BYTES] != _checksum(key, rows):
            return None
        return np.frombuffer(rows, "<f4").reshape(shape)

    def save(self, key: str, block: NDArray[np.float32]) -> None:
        """Keep the block [n, D].

        Raises:
            FusionEngineError: it cannot be written.
        """
        rows = np.ascontiguousarray(block, "<f4").tobytes()
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from error
        with atomic_path(path) as temporary:
            temporary.write_bytes(_checksum(key, rows) + rows)


def _checksum(key: str, rows: bytes) -> bytes:
    return hashlib.sha256(key.encode() + rows).digest()


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
        checksum, _, text = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return {}
    if checksum != hashlib.sha256(text.encode()).hexdigest():
        return {}
    entries: dict[str, Any] = json.loads(text)
    return entries


def _write_index(path: Path, entries: dict[str, Any]) -> None:
    text = json.dumps(entries)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    with atomic_path(path) as temporary:
        temporary.write_text(
            f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", encoding="utf-8"
        )
