"""What TensorRT measured about its kernels on this GPU, kept from one build to the next."""

import logging
import re
from pathlib import Path
from typing import Any

from ..._atomic import atomic_path
from ..._cache import cache_folder
from ...errors import FusionEngineError
from ..devices import GpuInfo
from .library import Library

logger = logging.getLogger(__name__)


def timing_cache_path(library: Library, gpu: GpuInfo) -> Path:
    """Where the measurements of ``library`` on ``gpu`` are kept."""
    name = re.sub(r"\W+", "-", f"{library} {gpu.name}").lower()
    return cache_folder() / "timing" / f"{name}.cache"


def load_timing_cache(config: Any, path: Path) -> None:
    """Give the builder's ``config`` the measurements in ``path``, if there are any."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        logger.warning("the timing cache is not read, and starts anew: %s", error)
        data = b""
    cache = config.create_timing_cache(data)
    # It refuses what is damaged or another version's.
    if not (cache and config.set_timing_cache(cache, ignore_mismatch=False)):
        logger.warning("%s: TensorRT does not take this timing cache, and starts anew", path)
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    logger.info("timing cache: %s, %d bytes", path, len(data))


def save_timing_cache(config: Any, path: Path) -> None:
    """Keep what ``config`` holds after a build; a plan without it is as good, so none raises."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(config.get_timing_cache().serialize())
    except (OSError, FusionEngineError) as error:
        logger.warning("the timing cache was not kept: %s", error)
