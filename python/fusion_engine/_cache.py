"""The user's cache folder, and a lock on a file in it."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``$FUSION_ENGINE_CACHE``, or the user's (``pooch.os_cache("fusion_engine")``)."""
    if folder := os.environ.get("FUSION_ENGINE_CACHE"):
        return Path(folder)
    import pooch

    return Path(pooch.os_cache("fusion_engine"))


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
