"""The same jobs done by others: PyTorch with panns_inference and torchlibrosa, and OpenVINO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fusion_engine import _core
from fusion_engine.frontend import Frontend
from fusion_engine.spec import LayerSpec, Spec
from tests.oracles import PANNS_SETTINGS

LAST_BLOCK = 6


class EagerCnn14:
    """``panns_inference``'s Cnn14 run eagerly up to the last block asked for, then the fusion.

    Its own frontend (torchlibrosa) comes first, and its classifier head is left out.
    """

    def __init__(self, model: Any, layers: Sequence[LayerSpec]) -> None:
        self._model = model
        self._numbers = [layer.number for layer in layers]
        self._pools = [layer.time_pool for layer in layers]

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples [B, N] to embeddings [B, D]."""
        model = self._model
        with torch.inference_mode():
            x = log_mel(model, samples)
            x = model.bn0(x.transpose(1, 3)).transpose(1, 3)
            maps = {}
            for number in range(1, max(self._numbers) + 1):
                pool = (1, 1) if number == LAST_BLOCK else (2, 2)
                block = getattr(model, f"conv_block{number}")
                maps[number] = x = block(x, pool_size=pool, pool_type="avg")
            chosen = [maps[number] for number in self._numbers]
            return to_numpy(fuse_reduced_first(chosen, self._pools))


class Tiny(torch.nn.Module):
    """Hardly any work, with seeded weights, so that decoding is what takes the time."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(1, 8, kernel_size=4, stride=4)

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Log-mel [B, 1, T, M] to [B, 8, T // 4, M // 4]."""
        x: torch.Tensor = self.conv(log_mel)
        return x


class EagerTiny:
    """``Tiny`` run eagerly after PANNs' own frontend, torchlibrosa, then the fusion."""

    def __init__(self, rate: int) -> None:
        from torchlibrosa.stft import LogmelFilterBank, Spectrogram

        window, hop, f_max = PANNS_SETTINGS[rate]
        self.spectrogram_extractor = Spectrogram(window, hop, freeze_parameters=True)
        self.logmel_extractor = LogmelFilterBank(
            rate,
            window,
            n_mels=64,
            fmin=50,
            fmax=f_max,
            top_db=None,
            freeze_parameters=True,
        )
        self._model = Tiny().eval()

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples [B, N] to embeddings [B, D]."""
        with torch.inference_mode():
            layer = self._model(log_mel(self, samples))
            return to_numpy(fuse_reduced_first([layer], [1]))


def to_numpy(x: torch.Tensor) -> NDArray[np.float32]:
    """The same memory as an array."""
    array: NDArray[np.float32] = x.numpy()
    return array


def log_mel(model: Any, samples: NDArray[np.float32]) -> torch.Tensor:
    """Samples [B, N] to log-mel [B, 1, T, M] by the model's own torchlibrosa modules."""
    with torch.inference_mode():
        spectrum = model.spectrogram_extractor(torch.from_numpy(samples))
        return model.logmel_extractor(spectrum)


def fuse_textbook(maps: Sequence[torch.Tensor], pools: Sequence[int]) -> torch.Tensor:
    """Niizumi et al. 2022, Eq. 1 to 3 as written: pool, flatten, concatenate, reduce."""
    frames = []
    for x, pool in zip(maps, pools, strict=True):
        pooled = _pooled(x, pool)
        frames.append(pooled.permute(0, 1, 3, 2).reshape(len(x), -1, pooled.shape[2]))
    z = torch.cat(frames, dim=1)
    return z.mean(dim=2) + z.amax(dim=2)


def fuse_reduced_first(maps: Sequence[torch.Tensor], pools: Sequence[int]) -> torch.Tensor:
    """The same values, reduced over time before flattening, so that nothing large is copied."""
    parts = []
    for x, pool in zip(maps, pools, strict=True):
        pooled = _pooled(x, pool)
        parts.append((pooled.mean(dim=2) + pooled.amax(dim=2)).flatten(1))
    return torch.cat(parts, dim=1)


def _pooled(x: torch.Tensor, pool: int) -> torch.Tensor:
    return functional.max_pool2d(x, (pool, 1)) if pool > 1 else x


class OpenVinoCnn14:
    """The same artifact on OpenVINO in FP32, between our frontend and our fusion."""

    def __init__(self, artifact: Path, spec: Spec, threads: int) -> None:
        import openvino

        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
        }
        compiled = openvino.Core().compile_model(artifact, "CPU", config)
        self._request = compiled.create_infer_request()
        self._frontend = Frontend(spec.frontend, threads=threads)
        self._pools = [layer.time_pool for layer in spec.layers]
        self._threads = threads

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples [B, N] to embeddings [B, D]."""
        inputs = {"log_mel": self._frontend.batch(list(samples))}
        results = self._request.infer(inputs, share_inputs=True, share_outputs=True)
        outputs = [results[index] for index in range(len(self._pools))]
        return _core.fuse(outputs, self._pools, threads=self._threads)[0]
