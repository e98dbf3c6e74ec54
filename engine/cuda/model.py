"""What every run of one artifact on a GPU shares."""

from dataclasses import dataclass

from ...spec import Spec
from .cuda_network import CudaNetwork
from .driver import Cuda, Memory
from .kernels import Kernels


@dataclass(frozen=True)
class Model:
    """An artifact on a GPU.

    Args:
        cuda: the GPU.
        network: the network.
        kernels: frontend and layer fusion.
        spec: the artifact's, with the normalisation that the caller asked for.
        tables: the frontend's tables in device memory.
    """

    cuda: Cuda
    network: CudaNetwork
    kernels: Kernels
    spec: Spec
    tables: Memory
