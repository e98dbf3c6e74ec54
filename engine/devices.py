"""Which GPU there is, or why there is none."""

import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .._install import install
from ..errors import BackendError


@dataclass(frozen=True)
class GpuInfo:
    """One GPU.

    Args:
        index: CUDA's ordinal, the N of ``cuda:N``.
        name: for example ``NVIDIA H200``.
        compute_capability: (major, minor).
        total_memory: bytes.
        multiprocessors: how many.
        driver: the newest CUDA version that the driver runs, for example ``13.0``.
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    total_memory: int
    multiprocessors: int
    driver: str

    def __str__(self) -> str:
        return f"{self.name} (SM {self.capability})"

    @property
    def capability(self) -> str:
        """The compute capability in writing, for example ``9.0``."""
        major, minor = self.compute_capability
        return f"{major}.{minor}"


def import_cuda() -> tuple[ModuleType, ModuleType]:
    """The modules ``cuda.core`` and ``cuda.bindings.driver``.

    Raises:
        BackendError: they are not installed.
    """
    try:
        import cuda.core
        from cuda.bindings import driver
    except ImportError as error:
        raise BackendError(
            f"cuda-core and cuda-bindings, which the GPU runtime is built on, cannot be imported "
            f"({error}). Install them: {install('gpu')}"
        ) from error
    return cuda.core, driver


def find_gpu(device: str = "cuda") -> GpuInfo:
    """The GPU that ``cuda``, ``cuda:N`` or ``auto`` means; no context is made on it.

    Raises:
        BackendError: cuda-core is missing, or there is no driver, no GPU or none of that number.
        ValueError: ``device`` is no GPU's name.
    """
    match = re.fullmatch(r"(?:cuda|auto)(?::(\d+))?", device)
    if match is None:
        raise ValueError(f"device is {device!r}, expected 'cuda', 'cuda:N' or 'auto'")
    core, driver = import_cuda()
    index = int(match[1] or 0)
    count = _count(driver)
    if index >= count:
        raise BackendError(
            f"no GPU {index}: CUDA sees {count} on this machine, numbered from 0. Check "
            "CUDA_VISIBLE_DEVICES and `nvidia-smi`"
        )
    found = core.Device(index)
    capability = found.compute_capability
    version = int(check(driver.cuDriverGetVersion()))
    return GpuInfo(
        index=index,
        name=found.name,
        compute_capability=(capability.major, capability.minor),
        total_memory=int(check(driver.cuDeviceTotalMem(check(driver.cuDeviceGet(index))))),
        multiprocessors=found.properties.multiprocessor_count,
        driver=f"{version // 1000}.{version % 1000 // 10}",
    )


def _count(driver: ModuleType) -> int:
    """GPUs that CUDA sees; the driver's count, which CUDA_VISIBLE_DEVICES limits, not NVML's."""
    try:
        check(driver.cuInit(0))
        return int(check(driver.cuDeviceGetCount()))
    except Exception as error:  # the loader of the driver has error classes of its own
        raise BackendError(
            f"no NVIDIA driver, or no GPU that it can use ({error}). Install or update the driver, "
            "and see `nvidia-smi`"
        ) from error


def check(result: tuple[Any, ...]) -> Any:
    """What a call of ``cuda.bindings.driver`` returned after its error code.

    Raises:
        BackendError: names the error code.
    """
    error, *values = result
    if int(error) != 0:
        raise BackendError(f"CUDA failed: {error.name}")
    return values[0] if values else None
