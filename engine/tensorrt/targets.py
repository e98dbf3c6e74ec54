"""Which TensorRT library runs on which GPU."""

from collections.abc import Sequence

from ..._install import install
from ...errors import BackendError
from ..devices import GpuInfo
from .library import EXTRAS, Library, import_tensorrt, installed_runtimes, preferred

# The compute capabilities that TensorRT for RTX can build for. There is none for 9.0 (H100, H200)
# nor for 10.0 and 10.3 (B200, B300): those are TensorRT's, which has no such list here.
RTX_TARGETS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
# What it builds for unless it is told. A plan for 7.5 as well would do without BF16, and be slower
# elsewhere.
RTX_DEFAULT_TARGETS = RTX_TARGETS[1:]


def serves(runtime: str, capability: str) -> bool:
    """Whether a library builds and runs plans for GPUs of that compute capability."""
    return runtime != "tensorrt_rtx" or capability in RTX_TARGETS


def listed(targets: Sequence[str]) -> str:
    """Compute capabilities in words: ``8.0, 8.6 and 12.0``."""
    *most, last = targets
    return f"{', '.join(most)} and {last}" if most else last


def not_served(gpu: GpuInfo) -> str:
    """What is said of a GPU that TensorRT for RTX has no target for, and what serves it."""
    here = "tensorrt" in installed_runtimes()
    how = ", which is installed" if here else f": {install(EXTRAS['tensorrt'])}"
    return (
        f"tensorrt_rtx runs on compute capability {listed(RTX_TARGETS)}, and this is {gpu}. Its "
        f"library is tensorrt{how}"
    )


def library_for(gpu: GpuInfo | None, runtime: str | None = None, *, otherwise: str = "") -> Library:
    """Load the TensorRT library that plans for a GPU are built and run with.

    Args:
        gpu: ``None``: any library will do.
        runtime: ``tensorrt`` or ``tensorrt_rtx``; ``None``: the one that is installed and serves
            the GPU, `tensorrt` where both do. The choice is logged.
        otherwise: what else the caller may do where none serves the GPU.

    Raises:
        BackendError: none is installed, only one that has no target for the GPU, or as
            ``import_tensorrt``.
        ValueError: a ``runtime`` that does not exist.
    """
    if gpu is None:
        return import_tensorrt(runtime)
    if runtime is None:
        installed = installed_runtimes()
        fitting = [name for name in installed if serves(name, gpu.capability)]
        if installed and not fitting:
            raise BackendError(not_served(gpu) + otherwise)
        return import_tensorrt(preferred(fitting))
    if runtime == "tensorrt_rtx" and not serves(runtime, gpu.capability):
        raise BackendError(not_served(gpu) + otherwise)
    return import_tensorrt(runtime)


def plan_targets(
    library: Library, gpu: GpuInfo | None, asked: Sequence[str] | None
) -> tuple[str, ...]:
    """The compute capabilities that a plan is built for.

    Args:
        library: what builds it. `tensorrt` builds for the GPU alone.
        gpu: the GPU that is there.
        asked: what the caller asked for; ``None``: all that `tensorrt_rtx` builds for by itself,
            or 7.5 alone where the GPU is of that.

    Raises:
        BackendError: this version of the library has no such target.
    """
    if not library.is_rtx:
        assert gpu is not None  # it cannot build without
        return (gpu.capability,)
    known = library.module.ComputeCapability.__members__
    if asked is None:
        if gpu is not None and gpu.capability not in RTX_DEFAULT_TARGETS:
            asked = (gpu.capability,)
        else:
            # Older versions know fewer.
            return tuple(one for one in RTX_DEFAULT_TARGETS if target_name(one) in known)
    missing = [one for one in asked if target_name(one) not in known]
    if missing:
        raise BackendError(
            f"{library} has no target for compute capability {listed(missing)}. Upgrade it: "
            f"{install(EXTRAS['tensorrt_rtx'], upgrade=True)}"
        )
    return tuple(one for one in RTX_TARGETS if one in asked)


def check_targets(targets: Sequence[str]) -> None:
    """Refuse what is no target of TensorRT for RTX.

    Raises:
        ValueError: an unknown compute capability, one that is named twice, or none.
    """
    unknown = [one for one in targets if one not in RTX_TARGETS]
    if unknown or not targets or len(set(targets)) < len(targets):
        raise ValueError(
            f"targets is {list(targets)}, expected some of {list(RTX_TARGETS)}, each once: the "
            "compute capabilities that tensorrt_rtx builds for"
        )


def target_name(capability: str) -> str:
    """Its name in TensorRT's ``ComputeCapability``: ``SM86``."""
    return f"SM{capability.replace('.', '')}"
