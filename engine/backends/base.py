"""What the engine asks of a backend: one inner method, called with checked input."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from ...spec import Spec


class Backend(ABC):
    """Runs one artifact's graph.

    Attributes:
        spec: the artifact's spec.
        device: what really runs, ``cpu``.
        name: library and version.
    """

    spec: Spec
    device: str
    name: str

    @abstractmethod
    def run(self, log_mel: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Layer outputs in the spec's order, for log-mel [B, 1, T, M]. Safe from many threads.

        Raises:
            BackendError: the library failed, memory that ran out included.
        """
