"""What an exporter must know about a backbone; one subclass and one file per backbone.

Nothing here imports torch at module level, so that the catalogue can be listed without it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from ...errors import ExportError
from ...frontend.frontend_spec import FrontendSpec
from ...spec import LayerSpec, SegmentRule, Token

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]


class Backbone(ABC):
    """A model that can be exported: its layers, its frontend, its weights and its arithmetic.

    The catalogue holds each model with its defaults; ``configured`` and ``for_checkpoint`` give the
    one that an export is about.

    Attributes:
        name: for example ``cnn14_16k``.
        aliases: other names that mean the same model.
        frontend: settings of the frontend it was trained with.
        layers: every layer that can be asked for, by the paper's number.
        default_layers: the paper's fusion.
        min_frames: the fewest frames of log-mel it takes.
        max_frames: the most frames of log-mel it takes in one run.
        segment: the rule that cuts clips for an input of fixed length, ``min_frames`` and
            ``max_frames`` at once; ``None`` where the length is free between the two.
        token: the token rule of a transformer with a CLS token.
        layer_norm_eps: the epsilon of its LayerNorms.
        fp32_tensors: prefixes of the tensors that stay in FP32, with what is computed from them
            and the input, where the model runs in half precision.
        anchors: one tensor's name for every way in which checkpoints call the model's tensors; by
            it the prefix is found that a wrapper put before the names.
        folder_config: what transformers' ``config.json`` must say beside such a checkpoint;
            ``None`` where transformers does not have the model.
    """

    name: str
    aliases: tuple[str, ...] = ()
    frontend: FrontendSpec
    layers: Mapping[int, LayerSpec]
    default_layers: tuple[int, ...]
    min_frames: int
    max_frames: int
    segment: SegmentRule | None = None
    token: Token | None = None
    layer_norm_eps: float | None = None
    fp32_tensors: tuple[str, ...] = ()
    anchors: tuple[str, ...] = ()
    folder_config: Mapping[str, Any] | None = None

    def configured(self, *, frames: int | None, token: Token | None) -> Self:
        """The model with what one export chooses.

        Args:
            frames: the longest input of one run, or the fixed one; ``None``: the model's own.
            token: the token rule; ``None``: the model's own.

        Raises:
            ExportError: it has no such choice, or not this one.
        """
        if token is not None:
            raise ExportError(
                f"token={token!r}: {self.name} has no tokens, leave it out (it is for transformers)"
            )
        if frames is None:
            return self
        self._check_frames(frames, self.min_frames)
        model = copy.copy(self)
        model.max_frames = frames
        return model

    def _check_frames(self, frames: int, least: int) -> None:
        if frames < least:
            shortest = self.frontend.samples(least) / self.frontend.sample_rate
            raise ExportError(
                f"an input of {frames} frames: {self.name} takes at least {least} ({shortest:g} s)"
            )

    def for_checkpoint(self, state: Tensors) -> Self:
        """The model with the settings that follow from a checkpoint, if any do.

        Raises:
            ExportError: a checkpoint of settings that the model cannot have.
        """
        return self

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
