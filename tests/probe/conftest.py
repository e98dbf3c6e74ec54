"""What the tests of the linear evaluation share."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture(autouse=True)
def _one_thread():
    """The products are small: threads would wait for each other longer than they work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def early(shared):
    """CNN14's first three blocks, in an order that is not that of their numbers."""
    from fusion_engine.export import export

    def make(folder):
        export("cnn14", folder / "cnn14.onnx", layers=[2, 1, 3], weights="random:0", seconds=2)

    return shared("early", make) / "cnn14.onnx"


@dataclass(frozen=True)
class Problem:
    """Points around the centres of their classes, standardised by their own distribution."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    classes: int

    def part(self, first: int, last: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self.x[first:last].copy(), self.y[first:last]


@pytest.fixture(scope="session")
def make_problem():
    def make(size, dim, classes, *, spread=1.0, distance=2.0, seed=0):
        """``distance`` between centres in units of the noise, which ``spread`` makes uneven."""
        rng = np.random.default_rng(seed)
        y = rng.integers(0, classes, size)
        centres = rng.standard_normal((classes, dim)) * distance / np.sqrt(2 * dim)
        x = centres[y] + rng.standard_normal((size, dim))
        return Problem((x * np.geomspace(1, spread, dim)).astype(np.float32), y, classes)

    return make
