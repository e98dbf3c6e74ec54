"""The whole job on a GPU by PyTorch and by ONNX Runtime: log-mel, backbone, layer fusion.

The networks are the published ones that `fusion_engine.export` verifies its graphs against (plain
PyTorch operations, no batch norm folded); tests hold them equal to those of panns_inference,
torchvggish and transformers. The frontend is cuFFT in FP32 with the artifact's filters and window.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from fusion_engine.export import Backbone
from fusion_engine.frontend import FrontendSpec
from fusion_engine.frontend.mel import filter_bank
from fusion_engine.frontend.window import analysis_window

from .peers import fuse_reduced_first

Samples = NDArray[np.float32]


class LogMel(torch.nn.Module):  # type: ignore[misc]  # torch is not type-checked
    """Samples [B, N] to log-mel [B, T, M] in the dtype of its buffers."""

    def __init__(self, spec: FrontendSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self._spec = spec
        self.register_buffer("window", torch.from_numpy(analysis_window(spec)).to(dtype))
        self.register_buffer("filters", torch.from_numpy(filter_bank(spec)).to(dtype))

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        spec, half = self._spec, self._spec.n_fft // 2
        x = samples.to(self.window.dtype)
        if spec.padding == "reflect":
            x = F.pad(x[:, None], (half, half), mode="reflect")[:, 0]
        frames = x.unfold(1, len(self.window), spec.hop_length)
        if spec.remove_dc:
            frames = frames - frames.mean(dim=2, keepdim=True)
        if spec.preemphasis:
            before = torch.cat([frames[:, :, :1], frames[:, :, :-1]], dim=2)
            frames = frames - spec.preemphasis * before
        bins = torch.view_as_real(torch.fft.rfft(frames * self.window, spec.n_fft))
        power = bins.square().sum(dim=3)
        mel = (power if spec.spectrum == "power" else power.sqrt()) @ self.filters
        offset = spec.log_offset
        mel = mel + offset if spec.log == "ln_add" else mel.clamp(min=offset)
        log_mel = 10.0 * mel.log10() if spec.log == "db" else mel.log()
        return (log_mel - spec.mean) / (1.0 if spec.std is None else 2.0 * spec.std)


class Fused(torch.nn.Module):  # type: ignore[misc]  # torch is not type-checked
    """Samples [B, N] to embeddings [B, D], all of one length, log-mel no longer than one run.

    Args:
        backbone: the published model.
        state: its checked state dict.
        layers: the paper's numbers.
        dtype: of the backbone; the frontend computes in FP32, in FP64 for FP64.
    """

    def __init__(
        self,
        backbone: Backbone,
        state: dict[str, torch.Tensor],
        layers: Sequence[int],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self._backbone, self._layers, self._dtype = backbone, tuple(layers), dtype
        self._chosen = [backbone.layers[number] for number in layers]
        exact = dtype == torch.float64
        self.log_mel = LogMel(backbone.frontend, torch.float64 if exact else torch.float32)
        self._names = {name: name.replace(".", "__") for name in state}
        for name, tensor in state.items():
            value = tensor.to(dtype) if tensor.is_floating_point() else tensor.clone()
            if value.ndim == 4:
                value = value.to(memory_format=torch.channels_last)
            self.register_buffer(self._names[name], value)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        x = self.segments(self.log_mel(samples)).to(self._dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        state = {name: getattr(self, attribute) for name, attribute in self._names.items()}
        outputs = self._backbone.reference(state, x, self._layers)
        return self.fuse(outputs, len(samples))

    def fuse(self, outputs: Sequence[torch.Tensor], clips: int) -> torch.Tensor:
        """Layer outputs [S, C, T, F] or [S, D] to float32 embeddings [B, D]."""
        if outputs[0].ndim == 2:
            return torch.cat(list(outputs), dim=1).float()
        # Segments of a clip stand one after the other on the time axis.
        joined = [
            x if len(x) == clips else x.unflatten(0, (clips, -1)).transpose(1, 2).flatten(2, 3)
            for x in outputs
        ]
        return fuse_reduced_first(joined, [layer.time_pool for layer in self._chosen]).float()

    def output_shapes(self, segments: int, frames: int) -> list[tuple[int, ...]]:
        """Of the layer outputs for log-mel [S, 1, T, M]."""
        step = self._backbone.frames_per_step(self._layers)
        return [
            (segments, layer.channels)
            if step is None
            else (segments, layer.channels, frames // (step // layer.time_pool), layer.freq)
            for layer in self._chosen
        ]

    def segments(self, log_mel: torch.Tensor) -> torch.Tensor:
        """[B, T, M] to [S, 1, T, M]: whole, or as the backbone's segments."""
        rule = self._backbone.segment
        if rule is not None and rule.last == "pad":
            missing = rule.frames - log_mel.shape[1]
            if missing < 0:
                raise ValueError(f"{log_mel.shape[1]} frames, expected at most {rule.frames}")
            log_mel = F.pad(log_mel, (0, 0, 0, missing), value=self._padding())
        elif rule is not None:
            count = log_mel.shape[1] // rule.frames
            log_mel = log_mel[:, : count * rule.frames].unflatten(1, (count, rule.frames))
            log_mel = log_mel.flatten(0, 1)
        return log_mel[:, None]

    def _padding(self) -> float:
        """Frames of zeros that are then normalised, as AST's recipe pads."""
        spec = self._backbone.frontend
        return (0.0 - spec.mean) / (1.0 if spec.std is None else 2.0 * spec.std)


def checked_state(
    backbone: Backbone, layers: Sequence[int], seed: int
) -> tuple[Backbone, dict[str, torch.Tensor]]:
    """The model and the weights that ``export(…, weights="random:SEED")`` puts into an artifact."""
    state = backbone.random_state(seed)
    backbone = backbone.for_checkpoint(state)
    return backbone, backbone.check_state(state, layers)


class HostToHost:
    """Samples and embeddings on the host, through page-locked memory, around a call on a device.

    Args:
        call: samples [B, N] on the device to embeddings there.
        device: PyTorch's name of it.
    """

    def __init__(self, call: Callable[[torch.Tensor], torch.Tensor], device: str = "cuda") -> None:
        self._call, self._device = call, device
        self._own = threading.local()  # each thread stages its own clips

    def __call__(self, samples: Samples) -> NDArray[np.float32]:
        staged = getattr(self._own, "staged", None)
        if staged is None or staged.shape != samples.shape:
            staged = torch.empty(samples.shape, pin_memory=self._device != "cpu")
            self._own.staged = staged
        staged.copy_(torch.from_numpy(samples))
        result: NDArray[np.float32] = (
            self._call(staged.to(self._device, non_blocking=True)).cpu().numpy()
        )
        return result


class OnnxRuntimePeer:
    """The artifact in a plain ONNX Runtime session, between PyTorch's frontend and fusion.

    Args:
        artifact: an `.onnx`.
        model: gives frontend and fusion.
        providers: as for ``onnxruntime.InferenceSession``.
        device: PyTorch's name of where the providers compute.
    """

    def __init__(
        self, artifact: Path, model: Fused, providers: list[Any], device: str = "cuda"
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(artifact), options, providers)
        running = self._session.get_providers()[0]
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        if running != wanted:
            raise RuntimeError(f"ONNX Runtime fell back from {wanted} to {running}")
        self._names = [output.name for output in self._session.get_outputs()]
        self._model, self._device = model, device

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        x = self._model.segments(self._model.log_mel(samples)).contiguous()
        if self._device != "cpu":
            torch.cuda.current_stream().synchronize()  # the session has a stream of its own
        binding = self._session.io_binding()
        where = (self._device, 0)
        binding.bind_input("log_mel", *where, np.float32, tuple(x.shape), x.data_ptr())
        shapes = self._model.output_shapes(*x.shape[::2])
        outputs = [torch.empty(shape, device=self._device) for shape in shapes]
        for name, out in zip(self._names, outputs, strict=True):
            binding.bind_output(name, *where, np.float32, tuple(out.shape), out.data_ptr())
        self._session.run_with_iobinding(binding)
        return self._model.fuse(outputs, len(samples))
