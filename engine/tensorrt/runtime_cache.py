"""What TensorRT for RTX compiled for this GPU when a plan was first run, kept for later ones."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from ..._atomic import atomic_path
from ..._cache import cached_path, locked
from ...errors import FusionEngineError
from ..devices import GpuInfo
from .library import Library

logger = logging.getLogger(__name__)


def runtime_cache_path(name: str, plan: bytes, library: Library, gpu: GpuInfo) -> Path:
    """Where the kernels of a ``plan`` called ``name`` are kept for ``library`` and ``gpu``."""
    key = {
        "plan": hashlib.sha256(plan).hexdigest(),
        "library": str(library),
        "gpu": [gpu.name, *gpu.compute_capability],
    }
    return cached_path("kernels", Path(name).stem, ".cache", key)


class RuntimeCache:
    """The compiled kernels of one engine: all its execution contexts share them.

    A plan works without, and compiles again: what cannot be read or kept is logged.

    Args:
        path: the file that they are read from and written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache: Any = None
        self._before = b""

    def use(self, config: Any) -> None:
        """Have the contexts of an ``IRuntimeConfig`` take kernels from here, and leave new ones.

        The first call reads the file. A CUDA context must be current: the library refuses what was
        compiled for another GPU, driver or version.
        """
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            data = self._read()
            if data and not self._cache.deserialize(data):
                logger.info("%s: not of this GPU, driver or library; it starts anew", self._path)
            # If nothing is compiled it gives the same bytes again, which need not be the file's.
            self._before = self._bytes()
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Keep what was compiled; every context is closed, and the CUDA context is current."""
        if self._cache is None:
            return
        mine = self._bytes()
        if not mine or mine == self._before:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self._path, f"write of {self._path.name}"):
                # Another process may have compiled other shapes meanwhile. Whether reading adds to
                # a cache or replaces what it holds is not documented: the longest has the most.
                theirs = self._read()
                merged = theirs and self._cache.deserialize(theirs)
                kept = [mine, self._bytes(), theirs] if merged else [mine]
                with atomic_path(self._path) as temporary:
                    temporary.write_bytes(max(kept, key=len))
        except (OSError, FusionEngineError) as error:
            logger.warning("the compiled kernels were not kept: %s", error)

    def _bytes(self) -> bytes:
        data = self._cache.serialize()  # None where the library failed
        return b"" if data is None else bytes(memoryview(data))

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            logger.warning("the compiled kernels are not read: %s", error)
            return b""
