"""What every run of one artifact on a GPU shares."""

from dataclasses import dataclass

from ...frontend import FrontendSpec
from ...spec import Spec
from .backbone import Backbone
from .cuda import Cuda, Memory
from .kernels import Kernels


@dataclass(frozen=True)
class Model:
    """An artifact on a GPU.

    Args:
        cuda: the GPU.
        backbone: the network.
        kernels: frontend and layer fusion.
        frontend: settings of the frontend.
        tables: the frontend's tables in device memory.
    """

    cuda: Cuda
    backbone: Backbone
    kernels: Kernels
    frontend: FrontendSpec
    tables: Memory

    @property
    def spec(self) -> Spec:
        """The artifact's spec."""
        return self.backbone.spec
