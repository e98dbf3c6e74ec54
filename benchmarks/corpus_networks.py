"""The networks that embed a corpus: as an artifact, and eagerly in PyTorch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchlibrosa.stft import LogmelFilterBank, Spectrogram

from fusion_engine.export import export_module
from fusion_engine.export.backbones.cnn14 import FRAMES_PER_STEP
from tests import oracles

from . import cases_cpu, peers

LAYERS = (3, 6)
Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Tiny(torch.nn.Module):
    """Hardly any work, so that decoding is what takes the time, as it does beside a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 8, kernel_size=4, stride=4)

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Log-mel [B, 1, T, M] to [B, 8, T // 4, M // 4]."""
        x: torch.Tensor = self.conv(log_mel)
        return x


class EagerTiny:
    """``Tiny`` run eagerly behind PANNs' own frontend, torchlibrosa."""

    def __init__(self) -> None:
        window, hop, f_max = oracles.PANNS_SETTINGS[cases_cpu.RATE]
        self.spectrogram_extractor = Spectrogram(window, hop, freeze_parameters=True)
        self.logmel_extractor = LogmelFilterBank(
            cases_cpu.RATE,
            window,
            n_mels=64,
            fmin=50,
            fmax=f_max,
            top_db=None,
            freeze_parameters=True,
        )
        self._model = _tiny()

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples [B, N] to embeddings [B, D]."""
        with torch.inference_mode():
            layer = self._model(peers.log_mel(self, samples))
            return peers.to_numpy(peers.fuse_reduced_first([layer], [1]))


def exported(network: str, folder: Path) -> Path:
    """The artifact, made once per run."""
    if network == "cnn14":
        return cases_cpu.exported(LAYERS, folder)
    artifact = folder / "tiny.onnx"
    if not artifact.exists():
        export_module(
            _tiny(),
            artifact,
            layers=["conv"],
            frontend=cases_cpu.CNN14.frontend,
            dynamic_from=FRAMES_PER_STEP,
        )
    return artifact


def eager(network: str) -> Embed:
    """The peer: samples [B, N] to embeddings [B, D]."""
    if network == "cnn14":
        layers = [cases_cpu.CNN14.layers[number] for number in LAYERS]
        return peers.EagerCnn14(cases_cpu.cnn14(), layers)
    return EagerTiny()


def _tiny() -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tiny().eval()
