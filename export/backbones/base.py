"""What an exporter must know about a backbone; one subclass and one file per backbone.

Nothing here imports torch at module level, so that the catalogue can be listed without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...frontend.spec import FrontendSpec
from ...spec import LayerSpec

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]


class Backbone(ABC):
    """A model that can be exported: its layers, its frontend, its weights and its arithmetic.

    Attributes:
        name: for example ``cnn14_16k``.
        aliases: other names that mean the same model.
        frontend: settings of the frontend it was trained with.
        layers: every layer that can be asked for, by the paper's number.
        default_layers: the paper's fusion.
        min_frames: the fewest frames of log-mel it takes.
    """

    name: str
    aliases: tuple[str, ...] = ()
    frontend: FrontendSpec
    layers: Mapping[int, LayerSpec]
    default_layers: tuple[int, ...]
    min_frames: int

    @abstractmethod
    def frames_per_step(self, layers: Sequence[int]) -> int | None:
        """Frames of log-mel per frame feature; ``None``: ``layers`` have no time axis."""

    @abstractmethod
    def chunk_margin(self, layers: Sequence[int]) -> int | None:
        """Frames of context that make a chunk exact for ``layers``; ``None``: not cuttable."""

    @abstractmethod
    def random_state(self, seed: int) -> dict[str, torch.Tensor]:
        """A seeded random state dict in the official checkpoint's names and shapes."""

    @abstractmethod
    def check_state(self, state: Tensors, layers: Sequence[int]) -> dict[str, torch.Tensor]:
        """The tensors needed for ``layers``, checked.

        Raises:
            ExportError: lists the missing and the surplus keys and the wrong shapes.
        """

    @abstractmethod
    def fold(self, state: Tensors) -> dict[str, torch.Tensor]:
        """What the graph holds: normalisations folded in FP64, rounded once to FP32."""

    @abstractmethod
    def forward(
        self, folded: Tensors, log_mel: torch.Tensor, layers: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        """The graph: log-mel [B, 1, T, M] to the layer outputs, in the order of ``layers``."""

    @abstractmethod
    def reference(
        self, state: Tensors, log_mel: torch.Tensor, layers: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        """The model as published, nothing folded; what an export is verified against."""
