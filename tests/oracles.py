"""Other people's models, with random weights that tell every fault apart, as references."""

import functools
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

# PANNs' own settings: window and hop in samples, upper edge of the mel filters in Hz.
PANNS_SETTINGS = {8_000: (256, 80, 4_000), 16_000: (512, 160, 8_000), 32_000: (1024, 320, 14_000)}
AUDIOSET_CLASSES = 527


@functools.cache
def panns_models() -> Any:
    """The module ``panns_inference.models``, imported without the network.

    The package reads AudioSet's labels at import, and downloads them where they are missing.
    """
    with tempfile.TemporaryDirectory() as home:
        labels = Path(home, "panns_data", "class_labels_indices.csv")
        labels.parent.mkdir()
        rows = [f'{i},/m/{i},"class {i}"' for i in range(AUDIOSET_CLASSES)]
        labels.write_text("\n".join(["index,mid,display_name", *rows]) + "\n")
        with mock.patch.dict(os.environ, {"HOME": home}):
            from panns_inference import models
    return models


def panns_cnn14(sample_rate: int, seed: int = 0) -> torch.nn.Module:
    """``panns_inference``'s own Cnn14 in FP32, in evaluation mode.

    Its initial convolutions, batch-norm statistics of seeded log-mel with a random perturbation,
    and random affine terms.
    """
    window, hop, f_max = PANNS_SETTINGS[sample_rate]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: torch.nn.Module = panns_models().Cnn14(
            sample_rate, window, hop, 64, 50, f_max, AUDIOSET_CLASSES
        )
        model.eval()
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            torch.nn.init.uniform_(norm.weight, 0.7, 1.3)
            torch.nn.init.normal_(norm.bias, 0.0, 0.2)
            norm.momentum = 1.0  # the statistics become those of the next batch
            norm.train()
        panns_layers(model, random_log_mel(2, 96, seed))
        for norm in norms:
            norm.eval()
            norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.6, 1.5)
        torch.nn.init.normal_(model.fc1.bias, 0.0, 0.1)
    return model


def panns_layers(model: torch.nn.Module, log_mel: torch.Tensor) -> dict[int, torch.Tensor]:
    """Layers 1…7 of PANNs' Cnn14 for log-mel [B, 1, T, 64], from its own forward pass."""
    layers: dict[int, torch.Tensor] = {}

    def keep(number: int) -> Any:
        return lambda module, inputs, output: layers.__setitem__(number, output.clone())

    # The model starts from samples: what its frontend makes of silence is replaced.
    hooks = [model.logmel_extractor.register_forward_hook(lambda *_: log_mel)]
    hooks += [
        getattr(model, f"conv_block{number}").register_forward_hook(keep(number))
        for number in range(1, 7)
    ]
    try:
        with torch.no_grad():
            parameter = next(model.parameters())
            silence = torch.zeros(log_mel.shape[0], 4096, dtype=parameter.dtype)
            layers[7] = model(silence)["embedding"]
    finally:
        for hook in hooks:
            hook.remove()
    return dict(sorted(layers.items()))


def panns_checkpoint(model: torch.nn.Module) -> dict[str, Any]:
    """What PANNs' training script saves: the weights, and beside them the data sampler's state."""
    sampler = {
        "indexes": np.arange(100),
        "indexes_per_class": [np.array([3, 1, 4], np.int32), np.array([1.5])],
        "pointer": np.int64(7),
        "queue": [2, 7, 1],
    }
    return {"iteration": 600_000, "model": model.state_dict(), "sampler": sampler}


def random_log_mel(batch: int, frames: int, seed: int = 0) -> torch.Tensor:
    """Seeded log-mel [batch, 1, frames, 64] in dB, FP32: coloured noise with quiet stretches."""
    rng = np.random.default_rng(seed)
    db = rng.normal(-30.0, 12.0, (batch, 1, frames, 64)) + np.linspace(20.0, -20.0, 64)
    db += 15.0 * np.sin(np.arange(frames) / 5.0)[:, None]
    return torch.from_numpy(np.clip(db, -100.0, 20.0).astype(np.float32))
