"""The PyTorch network on the double: its tensors are in host memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusion_engine.engine.cuda.cuda_network import Context, LayerTensor
from fusion_engine.engine.cuda.driver import Stream

from .double import Machine, view
from .torch_network import Precision, TorchContext, TorchNetwork


class HostTorchNetwork(TorchNetwork):
    """Give it to ``open_with_torch`` with the machine bound."""

    def __init__(self, machine: Machine, path: Path, precision: Precision, device: str) -> None:
        super().__init__(path, precision, "cpu")
        self.machine = machine

    def context(self) -> Context:
        return HostTorchContext(self)


class HostTorchContext(TorchContext):
    """Every run, a graph's included, writes to the outputs that ``enqueue`` gave."""

    _network: HostTorchNetwork

    def enqueue(self, log_mel: int, stream: Stream, valid: int = 0) -> Sequence[LayerTensor]:
        tensors = super().enqueue(log_mel, stream)
        outputs, x = self._outputs, self._input

        def run() -> None:
            with torch.inference_mode():
                for target, source in zip(outputs, self._network.forward(x), strict=True):
                    target.copy_(source)

        self._network.machine.queue(stream.handle, run)
        return tensors

    def view(self, address: int) -> torch.Tensor:
        return torch.from_numpy(view(address, np.float32, *self._shape))

    def pool(self) -> Any:
        return None

    @contextmanager
    def _on(self, stream: Stream) -> Iterator[None]:
        yield
