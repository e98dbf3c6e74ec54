"""Whether a plan can run here, asked before it is loaded.

A plan is executable code. Its SHA-256 proves that it is the file that was built, not who built it:
load plans only from sources you trust.
"""

import logging
import os
from dataclasses import replace

from ...errors import BackendError
from ..devices import GpuInfo
from .library import RTX_LEAST_CAPABILITY, Library, import_tensorrt, installed_runtimes
from .plan_file import PlanInfo, read_plan
from .sidecar import sidecar_path, this_system

logger = logging.getLogger(__name__)


def preflight(
    path: str | os.PathLike[str], *, library: Library | None = None, gpu: GpuInfo | None = None
) -> PlanInfo:
    """Read a plan and check that it can be loaded here.

    Args:
        path: the plan.
        library: the library that is to load it; ``None``: the one that built it is loaded, or,
            without a sidecar, the one that is installed (see ``import_tensorrt``).
        gpu: the GPU that is to run it; ``None`` leaves that out.

    Raises:
        ArtifactError: as ``read_plan``.
        BackendError: the library that built it is missing, or is another version here; built for
            another GPU or system. The message has the command that builds it again.
    """
    info = read_plan(path)
    check_machine(info, library=library or _library_of(info), gpu=gpu)
    if info.sidecar is None:
        logger.warning(
            "%s: no sidecar beside it, so that nobody knows whether its bytes are intact, or which "
            "TensorRT, GPU and system it was built with: the TensorRT that is installed is tried. "
            "Put %s beside it, or build it again: %s",
            path,
            sidecar_path(path).name,
            info.rebuild_command,
        )
    return info


def _library_of(info: PlanInfo) -> Library:
    """The library that the plan needs."""
    try:
        return import_tensorrt(info.runtime)
    except BackendError as error:
        message = f"{info.path}: {error}"
        others = [name for name in installed_runtimes() if name != info.runtime]
        if info.sidecar is not None and others:
            command = replace(info.sidecar, runtime=others[0]).rebuild_command(info.path)
            message += f". Or build it for {others[0]}, which is installed: {command}"
        raise BackendError(message) from error


def check_machine(info: PlanInfo, *, library: Library, gpu: GpuInfo | None) -> None:
    """Refuse a plan that ``library`` cannot load, or ``gpu`` cannot run, here.

    Raises:
        BackendError: as ``preflight``.
    """
    found = _other_library(info, library), _other_system(info), _other_gpu(info, library, gpu)
    for reason in found:
        if reason is not None:
            raise BackendError(f"{info.path}: {reason}. Build it again: {info.rebuild_command}")


def _other_library(info: PlanInfo, library: Library) -> str | None:
    if info.sidecar is None:
        return None
    built = f"{info.sidecar.runtime} {info.sidecar.runtime_version}"
    if built == str(library):
        return None
    return f"built by {built}, and this is {library}; a plan is bound to both"


def _other_system(info: PlanInfo) -> str | None:
    if info.sidecar is None or info.sidecar.system == this_system():
        return None
    return f"built on {info.sidecar.system}, and this machine is {this_system()}"


def _other_gpu(info: PlanInfo, library: Library, gpu: GpuInfo | None) -> str | None:
    if gpu is None:
        return None
    if library.is_rtx:
        if gpu.compute_capability < RTX_LEAST_CAPABILITY:
            least = "{}.{}".format(*RTX_LEAST_CAPABILITY)
            return f"built for GPUs of compute capability {least} and later, and this is {gpu}"
        return None
    if info.sidecar is None or info.sidecar.compute_capability is None:
        return None
    if info.sidecar.compute_capability != "{}.{}".format(*gpu.compute_capability):
        return (
            f"built on an {info.sidecar.gpu} (compute capability "
            f"{info.sidecar.compute_capability}), and this is {gpu}"
        )
    if info.sidecar.gpu != gpu.name:
        logger.warning(
            "%s: tuned on an %s, and this is an %s of the same compute capability: it runs, but "
            "may be slower than a plan built here",
            info.path,
            info.sidecar.gpu,
            gpu.name,
        )
    return None
