"""VGGish (Hershey et al. 2017), the backbone of VGGish-Fusion.

Six 3×3 convolutions in four groups, each group followed by a 2×2 max pool, and three fully
connected layers. The paper (Niizumi et al. 2022, Table I) counts convolutions, ReLUs and pools
alike, and takes the ReLUs' outputs: layer 15 is the last of the convolutions, layer 22 the 128-d
feature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ExportError
from ...frontend.frontend_spec import VGGISH as FRONTEND
from ...spec import LayerSpec, SegmentRule, Token
from ..checkpoint import fit_tensors
from .base import Backbone

if TYPE_CHECKING:
    import torch

    from .base import Tensors

SEGMENT_FRAMES = 96
FRAMES_PER_STEP = 16
# Layer, the channels of its ReLU, and whether a 2×2 max pool comes before its convolution.
CONVOLUTIONS = (
    (2, 64, False),
    (5, 128, True),
    (8, 256, True),
    (10, 256, False),
    (13, 512, True),
    (15, 512, False),
)
# Layer and length of its ReLU.
LINEARS = ((18, 4096), (20, 4096), (22, 128))
# Length of the first one's input: 512 channels, 6 steps and 4 bins after the last pool.
_FLAT = 512 * 6 * 4
_PARTS = ("weight", "bias")


class Vggish(Backbone):
    """VGGish on segments of 0.96 s."""

    name = "vggish"
    frontend = FRONTEND
    default_layers = (10, 15)
    min_frames = max_frames = SEGMENT_FRAMES
    segment = SegmentRule(frames=SEGMENT_FRAMES, last="drop")
    anchors = ("features.0.weight",)

    def __init__(self) -> None:
        layers = {}
        pools = 0
        for number, channels, pooled in CONVOLUTIONS:
            pools += pooled
            layers[number] = LayerSpec(
                number=number,
                kind="map",
                channels=channels,
                freq=FRONTEND.n_mels >> pools,
                time_pool=FRAMES_PER_STEP >> pools,
            )
        for number, length in LINEARS:
            layers[number] = LayerSpec(number=number, kind="vector", channels=length)
        self.layers = layers

    def configured(self, *, frames: int | None, token: Token | None) -> Vggish:  # noqa: D102
        if frames not in (None, SEGMENT_FRAMES):
            raise ExportError(
                f"an input of {frames} frames: {self.name} takes segments of {SEGMENT_FRAMES} and "
                "nothing else; leave frames and seconds out, clips of any length are cut"
            )
        return super().configured(frames=None, token=token)

    def frames_per_step(self, layers: Sequence[int]) -> int | None:  # noqa: D102
        return FRAMES_PER_STEP

    def chunk_margin(self, layers: Sequence[int]) -> int | None:  # noqa: D102
        return None

    def random_state(self, seed: int) -> dict[str, torch.Tensor]:
        """Seeded weights that keep the activations alive, for tests and demonstrations.

        He-normal with each filter's mean removed, so that the level common to all inputs does not
        add up from layer to layer. Checked on chirps, tones, noise, clicks, square waves and
        synthetic speech: the standard deviation of every layer stays between 0.1 and 10.
        """
        import torch

        rng = np.random.default_rng(seed)
        state: dict[str, np.ndarray[Any, Any]] = {}
        for name, shape in _shapes("embeddings").items():
            if name.endswith("bias"):
                state[name] = rng.normal(0.0, 0.1, shape)
                continue
            fan_in = math.prod(shape[1:])
            values = rng.standard_normal((shape[0], fan_in), np.float32)
            values -= values.mean(axis=1, keepdims=True)
            state[name] = (values * math.sqrt(2.0 / fan_in)).reshape(shape)
        return {name: torch.from_numpy(v.astype(np.float32)) for name, v in state.items()}

    def check_state(self, state: Tensors, layers: Sequence[int]) -> dict[str, torch.Tensor]:  # noqa: D102
        # torchvggish calls the fully connected layers ``embeddings``, older ports ``fc``.
        named = any(name.startswith("embeddings.") for name in state)
        head = "fc" if not named and any(name.startswith("fc.") for name in state) else "embeddings"
        shapes = _shapes(head)
        ignored = ["pproc."]
        if max(layers) < LINEARS[0][0]:
            # What follows the convolutions may be a head of another training.
            shapes = {name: shape for name, shape in shapes.items() if name.startswith("features.")}
            ignored.append(f"{head}.")
        # Every convolution is looked at, so that a checkpoint of another model is never half-used.
        tensors = fit_tensors(state, shapes, ignored=tuple(ignored))
        return {
            name.replace("fc.", "embeddings."): tensor
            for name, tensor in tensors.items()
            if _layer(name) <= max(layers)
        }

    def fold(self, state: Tensors) -> dict[str, torch.Tensor]:  # noqa: D102
        return {name: tensor.float().contiguous() for name, tensor in state.items()}

    def forward(  # noqa: D102
        self, folded: Tensors, log_mel: torch.Tensor, layers: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        from torch.nn import functional as F

        deepest = max(layers)
        outputs = {}
        x = log_mel
        for number, _, pooled in CONVOLUTIONS:
            if number <= deepest:
                x = F.max_pool2d(x, 2) if pooled else x
                weight, bias = (folded[f"features.{number - 2}.{part}"] for part in _PARTS)
                x = outputs[number] = F.relu(F.conv2d(x, weight, bias, padding=1))
        if deepest >= LINEARS[0][0]:
            # The checkpoints expect (T, F, C), as TensorFlow has it.
            x = F.max_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1)
        for number, _ in LINEARS:
            if number <= deepest:
                weight, bias = (folded[f"embeddings.{number - 18}.{part}"] for part in _PARTS)
                x = outputs[number] = F.relu(F.linear(x, weight, bias))
        return tuple(outputs[number] for number in layers)

    def reference(  # noqa: D102
        self, state: Tensors, log_mel: torch.Tensor, layers: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        return self.forward(state, log_mel, layers)  # nothing is folded


def _layer(name: str) -> int:
    """The layer whose ReLU follows the tensor ``name``; torchvggish counts modules as the paper."""
    group, index, _ = name.split(".")
    return int(index) + (2 if group == "features" else 18)


def _shapes(head: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model; ``head`` is the name of its fully connected part."""
    shapes: dict[str, tuple[int, ...]] = {}
    before = 1
    for number, channels, _ in CONVOLUTIONS:
        shapes[f"features.{number - 2}.weight"] = (channels, before, 3, 3)
        shapes[f"features.{number - 2}.bias"] = (channels,)
        before = channels
    before = _FLAT
    for number, length in LINEARS:
        shapes[f"{head}.{number - 18}.weight"] = (length, before)
        shapes[f"{head}.{number - 18}.bias"] = (length,)
        before = length
    return shapes
