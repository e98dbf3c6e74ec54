"""The published model in PyTorch, from samples to embedding, at any precision.

Nothing of the engine is used but the FP64 frontend: the cutting into segments and the layer fusion
(Niizumi et al. 2022, Eq. 1 to 3) are plain tensor operations here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..frontend import Frontend, FrontendSpec
from ..spec import Head
from .frontend_fp32 import Transform, log_mel_fp32

if TYPE_CHECKING:
    import torch

    from ..export import Backbone

ReferencePrecision = Literal["fp64", "fp32", "fp16", "bf16"]
Outputs = Mapping[str, NDArray[np.float64]]

FRAME_FEATURES, EMBEDDING = "frame_features", "embedding"


class Reference:
    """A model as published, for one choice of layers.

    Args:
        backbone: the model, with the settings of the artifact (input length, token rule).
        state: its FP32 tensors, as ``Backbone.check_state`` gives them.
        layers: the paper's numbers, in the order of Eq. 2.
        head: pooling over time.
    """

    def __init__(
        self,
        backbone: Backbone,
        state: Mapping[str, torch.Tensor],
        layers: Sequence[int],
        head: Head,
    ) -> None:
        self.backbone = backbone
        self.layers = tuple(layers)
        self.head = head
        self._states: dict[ReferencePrecision, Mapping[str, torch.Tensor]] = {"fp32": state}

    def log_mel(
        self, samples: NDArray[Any], frontend: FrontendSpec, *, fp32: Transform | None = None
    ) -> NDArray[np.float32]:
        """Log-mel [T, n_mels] of a clip [N], which is zero-padded to the model's minimum.

        It is computed in FP64, or by a transform in ``fp32``.
        """
        segment = self.backbone.segment
        padded_later = segment is not None and segment.last == "pad"
        least = frontend.samples(1 if padded_later else self.backbone.min_frames)
        padded = np.pad(samples, (0, max(0, least - len(samples))))
        if fp32 is None:
            return Frontend(frontend)(padded)
        return log_mel_fp32(padded, frontend, fp32)

    def outputs(self, log_mel: NDArray[np.float32], precision: ReferencePrecision) -> Outputs:
        """Layer outputs, frame features and embedding of one clip, for log-mel [T, n_mels].

        In half precision the tensors and the operations between them are FP16 or BF16, those of
        ``Backbone.fp32_tensors`` FP32; the fusion of half-precision layer outputs is FP32.

        Returns:
            ``layer_N`` [C, T_l, F] or [C], with the segments as a first axis where the model takes
            segments; ``frame_features`` [D, T_o] unless a layer pools over the whole clip; and
            ``embedding`` [D].
        """
        import torch

        dtype = _dtype(precision)
        wide = torch.float64 if precision == "fp64" else torch.float32
        half = dtype.itemsize == 2
        segments, real = self._segments(log_mel)
        with torch.inference_mode(), _half_arithmetic(dtype) if half else nullcontext():
            found = self.backbone.reference(
                self._state(precision), torch.from_numpy(segments).to(wide), self.layers
            )
        layers = [tensor.to(wide) for tensor in found]
        features, embedding = self._fused(layers, segments.shape[2], real)
        whole = self.backbone.segment is None
        named = {
            f"layer_{number}": tensor[0] if whole else tensor
            for number, tensor in zip(self.layers, layers, strict=True)
        }
        if features is not None:
            named[FRAME_FEATURES] = features
        named[EMBEDDING] = embedding
        return {name: tensor.double().numpy() for name, tensor in named.items()}

    def folded(self) -> dict[str, NDArray[np.float32]]:
        """The FP32 tensors of an export's graph."""
        folded = self.backbone.fold(self._states["fp32"])
        return {name: tensor.numpy() for name, tensor in folded.items()}

    def _state(self, precision: ReferencePrecision) -> Mapping[str, torch.Tensor]:
        """The model's tensors in ``precision``, made once."""
        if precision not in self._states:
            dtype = _dtype(precision)
            kept = self.backbone.fp32_tensors if dtype.itemsize == 2 else ()
            self._states[precision] = {
                name: tensor if name.startswith(kept) else tensor.to(dtype)
                for name, tensor in self._states["fp32"].items()
            }
        return self._states[precision]

    def _segments(self, log_mel: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[int]]:
        """[S, 1, L, n_mels], and the frames in each that are the clip's own."""
        frames, mels = log_mel.shape
        rule = self.backbone.segment
        if rule is None:
            return log_mel[None, None], [frames]
        length = rule.frames
        count = frames // length if rule.last == "drop" else -(-frames // length)
        front = self.backbone.frontend
        # Zeros before the normalisation.
        padded = np.full((count * length, mels), -front.mean / (2 * (front.std or 0.5)), np.float32)
        padded[: min(frames, len(padded))] = log_mel[: len(padded)]
        real = [min(length, frames - start) for start in range(0, len(padded), length)]
        return padded.reshape(count, 1, length, mels), real

    def _fused(
        self, layers: Sequence[torch.Tensor], length: int, real: Sequence[int]
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Frame features z [D, T_o], where there are any, and the embedding z̃ [D]."""
        import torch

        specs = [self.backbone.layers[number] for number in self.layers]
        step = self.backbone.frames_per_step(self.layers)
        pooled = any(spec.kind == "vector" for spec in specs) and self.backbone.segment is None
        if step is None:  # vectors: one column a segment, averaged by real frames
            z = torch.cat(list(layers), dim=1).T
            weights = torch.tensor(real, dtype=z.dtype)
            return None if pooled else z, (z * (weights / weights.sum())).sum(dim=1)
        parts = []
        for spec, layer in zip(specs, layers, strict=True):
            if spec.kind == "vector":
                parts.append(layer[:, :, None].expand(-1, -1, length // step))
            else:
                x = torch.nn.functional.max_pool2d(layer, (spec.time_pool, 1))
                parts.append(x.transpose(2, 3).flatten(1, 2))
        z = torch.cat(parts, dim=1).transpose(0, 1).flatten(1)
        mean, most = z.mean(dim=1), z.amax(dim=1)
        embedding = {"mean_max": mean + most, "mean": mean, "max": most}[self.head]
        return None if pooled else z, embedding


def _dtype(precision: ReferencePrecision) -> torch.dtype:
    import torch

    return {
        "fp64": torch.float64,
        "fp32": torch.float32,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
    }[precision]


def _half_arithmetic(dtype: torch.dtype) -> AbstractContextManager[None]:
    """Products of half-precision tensors accumulate in FP32 and are rounded once, as on GPUs.

    What a CPU does by itself depends on its instructions, and is slow without them.
    """
    import torch
    from torch.nn import functional as F
    from torch.overrides import TorchFunctionMode

    products = {F.conv2d, F.linear, F.scaled_dot_product_attention, torch.Tensor.matmul}

    def as_fp32(value: Any) -> Any:
        return value.to(dtype).float() if isinstance(value, torch.Tensor) else value

    class HalfArithmetic(TorchFunctionMode):  # type: ignore[misc]  # torch is not type-checked
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if func not in products:
                return func(*args, **kwargs)
            wide = func(*map(as_fp32, args), **{k: as_fp32(v) for k, v in kwargs.items()})
            return wide.to(dtype)

    mode: AbstractContextManager[None] = HalfArithmetic()
    return mode
