"""Whether a plan can run here, asked before it is loaded.

A plan is executable code. Its SHA-256 proves that it is the file that was built, not who built it:
load plans only from sources you trust.
"""

import logging
import os
from dataclasses import replace

from ...errors import BackendError
from ..devices import GpuInfo
from .library import Library, Runtime, import_tensorrt, installed_runtimes
from .plan_file import PlanInfo, read_plan
from .sidecar import sidecar_path, this_system
from .targets import library_for, listed, not_served, serves

logger = logging.getLogger(__name__)


def preflight(
    path: str | os.PathLike[str], *, library: Library | None = None, gpu: GpuInfo | None = None
) -> PlanInfo:
    """Read a plan and check that it can be loaded here.

    Args:
        path: the plan.
        library: the library that is to load it; ``None``: the one that built it is loaded, or,
            without a sidecar, the one that is installed and serves the GPU.
        gpu: the GPU that is to run it; ``None`` leaves that out.

    Raises:
        ArtifactError: as ``read_plan``.
        BackendError: the library that built it is missing, or is another version here; built for
            another GPU or system. The message has the command that builds it again.
    """
    info = read_plan(path)
    check_machine(info, library=library or library_of(info, gpu), gpu=gpu)
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


def library_of(info: PlanInfo, gpu: GpuInfo | None) -> Library:
    """Load the library that a plan needs: the one that built it, where that is known.

    Raises:
        BackendError: as ``preflight``.
    """
    if info.sidecar is None:
        try:
            return library_for(gpu)
        except BackendError as error:
            raise BackendError(f"{info.path}: {error}") from error
    # Not what to install, where that would not help.
    _check_served(info, info.sidecar.runtime, gpu)
    try:
        return import_tensorrt(info.runtime)
    except BackendError as error:
        message = f"{info.path}: {error}"
        others = [
            name
            for name in installed_runtimes()
            if name != info.runtime and (gpu is None or serves(name, gpu.capability))
        ]
        if others:
            command = replace(info.sidecar, runtime=others[0]).rebuild_command(info.path)
            message += f". Or build it for {others[0]}, which is installed: {command}"
        raise BackendError(message) from error


def check_machine(info: PlanInfo, *, library: Library, gpu: GpuInfo | None) -> None:
    """Refuse a plan that ``library`` cannot load, or ``gpu`` cannot run, here.

    Raises:
        BackendError: as ``preflight``.
    """
    _check_served(info, library.runtime, gpu)
    found = _other_library(info, library), _other_system(info), _other_gpu(info, gpu)
    for reason in found:
        if reason is not None:
            raise BackendError(f"{info.path}: {reason}. Build it again: {_rebuild(info, gpu)}")


def _check_served(info: PlanInfo, runtime: Runtime, gpu: GpuInfo | None) -> None:
    """Refuse a plan of a library that has no target for ``gpu``: built again it would not help."""
    if gpu is None or serves(runtime, gpu.capability):
        return
    sidecar = info.sidecar and replace(info.sidecar, runtime="tensorrt")
    command = replace(info, sidecar=sidecar).rebuild_command
    raise BackendError(f"{info.path}: {not_served(gpu)}. Build it again with that: {command}")


def _rebuild(info: PlanInfo, gpu: GpuInfo | None) -> str:
    """The command that builds it again, for this GPU where it was built for others."""
    sidecar = info.sidecar
    if sidecar is not None and gpu is not None and gpu.capability not in sidecar.targets:
        sidecar = replace(sidecar, targets=(gpu.capability,))
    return replace(info, sidecar=sidecar).rebuild_command


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


def _other_gpu(info: PlanInfo, gpu: GpuInfo | None) -> str | None:
    sidecar = info.sidecar
    if gpu is None or sidecar is None:
        return None
    if gpu.capability not in sidecar.targets:
        built = f"built for compute capability {listed(sidecar.targets)}"
        if sidecar.gpu is not None:
            built = f"built on an {sidecar.gpu} (compute capability {listed(sidecar.targets)})"
        return f"{built}, and this is {gpu}"
    if sidecar.gpu not in (None, gpu.name):
        logger.warning(
            "%s: tuned on an %s, and this is an %s of the same compute capability: it runs, but "
            "may be slower than a plan built here",
            info.path,
            sidecar.gpu,
            gpu.name,
        )
    return None
