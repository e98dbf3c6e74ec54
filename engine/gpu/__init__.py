"""The GPU runtime: from samples to embeddings on the device, on cuda-core and cuda-bindings."""

from .device import GpuInfo, find_gpu

__all__ = ["GpuInfo", "find_gpu"]
