"""Plans that are built when an `.onnx` artifact is first run through TensorRT, and kept."""

import logging
import os
from dataclasses import asdict
from pathlib import Path

from ..._cache import cached_path, making
from ..._version import __version__
from ...artifact import file_sha256, read_spec
from ...errors import ArtifactError
from ..devices import GpuInfo
from ..precision import Precision
from .builder import DEFAULT_EFFORT, build
from .monitor import BuildProgress
from .plan_file import read_plan
from .profile import make_profile, profiles_of
from .sidecar import this_system
from .targets import library_for

logger = logging.getLogger(__name__)


def cached_plan(
    onnx: str | os.PathLike[str],
    *,
    gpu: GpuInfo,
    runtime: str | None = None,
    precision: Precision = "fp16",
    batch: tuple[int, int, int] | None = None,
    seconds: tuple[float, float, float] | None = None,
    frames: tuple[int, int, int] | None = None,
    effort: int = DEFAULT_EFFORT,
    progress: BuildProgress | None = None,
) -> Path:
    """The plan of an artifact for this machine, built unless it is in the user's cache intact.

    It is kept under a key of the artifact's SHA-256, the library and its version, the GPU, the
    system, this package's version and the options. Several processes and threads may ask at once:
    one builds, the others wait for it.

    Args:
        onnx: the artifact.
        gpu: the GPU that is to run the plan; the library is one that serves it.
        runtime, precision, batch, seconds, frames, effort, progress: as for ``build``.

    Raises:
        BackendError: the cache cannot be used, or as ``build``.
        ArtifactError, NumericalError, FusionEngineError, ValueError: as ``build``.
    """
    library = library_for(gpu, runtime)
    profile = make_profile(read_spec(onnx), batch=batch, seconds=seconds, frames=frames)
    key = {
        "onnx": file_sha256(onnx),
        "library": str(library),
        "gpu": [gpu.name, *gpu.compute_capability],
        "system": this_system(),
        "fusion_engine": __version__,
        "precision": precision,
        "profiles": [asdict(one) for one in profiles_of(profile, static=True)],
        "effort": effort,
    }
    path = cached_path("plans", Path(onnx).stem, ".plan", key)
    otherwise = "plans, or build one with `fusion-engine build`"
    with making(path, f"build of {path.name}", otherwise=otherwise):
        if not _intact(path):
            logger.info(
                "building %s in %s for %s: the first run of this artifact here",
                path,
                precision,
                gpu,
            )
            build(
                onnx,
                path,
                runtime=library.runtime,
                precision=precision,
                batch=profile.batch.triple,
                frames=profile.frames.triple,
                effort=effort,
                gpu=gpu,
                progress=progress,
            )
    return path


def _intact(path: Path) -> bool:
    """Whether the plan is there, with a sidecar that vouches for its bytes."""
    if not path.exists():
        return False
    try:
        info = read_plan(path)
    except ArtifactError as error:
        logger.warning("the cached plan is built again: %s", error)
        return False
    if info.sidecar is None:
        logger.warning("the cached plan %s has no sidecar: it is built again", path)
        return False
    logger.info("using the cached plan %s", path)
    return True
