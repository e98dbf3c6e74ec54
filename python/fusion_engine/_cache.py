"""The user's cache folder, and a lock on a file in it."""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import BackendError

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``$FUSION_ENGINE_CACHE``, or the user's (``pooch.os_cache("fusion_engine")``)."""
    if folder := os.environ.get("FUSION_ENGINE_CACHE"):
        return Path(folder)
    import pooch

    return Path(pooch.os_cache("fusion_engine"))


def cached_path(folder: str, stem: str, suffix: str, key: Mapping[str, Any]) -> Path:
    """Where ``folder`` of the cache keeps the file that ``key``, JSON values, stands for."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    name = f"{stem}-{digest[:16]}{suffix}"
    return Path(os.path.abspath(cache_folder()), folder, name)  # noqa: PTH100


@contextmanager
def making(path: Path, work: str, *, otherwise: str) -> Iterator[None]:
    """Make ``path`` in the cache, one process or thread at a time.

    Args:
        path: see ``cached_path``.
        work: see ``locked``.
        otherwise: what needs the space, and what to do where there is none.

    Raises:
        BackendError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, work):
            yield
    except OSError as error:
        raise BackendError(
            f"the cache {path.parent} cannot be used: {error.strerror or error}; set "
            f"FUSION_ENGINE_CACHE to a folder that can be written and has space for {otherwise}"
        ) from error


@contextmanager
def locked(path: Path, work: str) -> Iterator[None]:
    """One process or thread at a time makes ``path``; the lock goes with its holder.

    Args:
        path: the file that is made; ``PATH.lock`` stays beside it.
        work: what the others wait for, for the log: ``download of NAME``.
    """
    with Path(f"{path}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another %s", work)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
