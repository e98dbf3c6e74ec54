"""CNN14 of PANNs (Kong et al. 2020), the backbone of CNN14-Fusion, at its three sample rates.

Six blocks of two 3×3 convolutions, each followed by batch norm and ReLU; blocks 1 to 5 end with a
2×2 average pool. Layers 1…6 are the blocks' outputs, layer 7 is PANNs' own clip ``embedding``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ExportError
from ...frontend.frontend_spec import PANNS_8K, PANNS_16K, PANNS_32K, FrontendSpec
from ...frontend.mel import filter_bank
from ...spec import LayerSpec
from ..checkpoint import fit_tensors
from .base import Backbone

if TYPE_CHECKING:
    import torch

    from .base import Tensors

CHANNELS = (64, 128, 256, 512, 1024, 2048)
EMBEDDING = 7
BATCH_NORM_EPS = 1e-5
FRAMES_PER_STEP = 32
_LONGEST_SECONDS = 60
# Context of a block's output on each side is 2, 6, 14, 30, 62, 126 frames; rounded up to 32.
_MARGINS = (32, 32, 32, 32, 64, 128)
_AUDIOSET_CLASSES = 527
# What random weights are scaled for: log-mel of audio (dB), and the standard deviation of what the
# two convolutions of a block give for it.
_LOG_MEL_MEAN_STD = (-30.0, 20.0)
_CONV1_STD = math.sqrt(0.4)
_CONV2_STD = math.sqrt(0.65)
_NORM = ("weight", "bias", "running_mean", "running_var")


class Cnn14(Backbone):
    """CNN14 at one sample rate; the arithmetic is the same at all three."""

    default_layers = (3, 6)
    min_frames = 32
    anchors = ("conv_block1.conv1.weight",)
    fp32_tensors = ("bn0.",)  # log-mel in dB has a step of 0.06 at -100 dB in FP16

    def __init__(self, name: str, frontend: FrontendSpec, aliases: tuple[str, ...] = ()) -> None:
        self.name = name
        self.aliases = aliases
        self.frontend = frontend
        self.max_frames = frontend.frames(_LONGEST_SECONDS * frontend.sample_rate)
        blocks = {
            number: LayerSpec(
                number=number,
                kind="map",
                channels=channels,
                freq=frontend.n_mels >> min(number, 5),
                time_pool=FRAMES_PER_STEP >> min(number, 5),
            )
            for number, channels in enumerate(CHANNELS, start=1)
        }
        embedding = LayerSpec(number=EMBEDDING, kind="vector", channels=CHANNELS[-1])
        self.layers = {**blocks, EMBEDDING: embedding}

    def frames_per_step(self, layers: Sequence[int]) -> int | None:  # noqa: D102
        return None if set(layers) == {EMBEDDING} else FRAMES_PER_STEP

    def chunk_margin(self, layers: Sequence[int]) -> int | None:  # noqa: D102
        return None if EMBEDDING in layers else _MARGINS[max(layers) - 1]

    def random_state(self, seed: int) -> dict[str, torch.Tensor]:
        """Seeded weights that keep the activations alive, for tests and demonstrations.

        Filters are He-normal with their mean removed, so that a level common to all inputs does not
        add up from block to block; the batch norms expect the mean and variance that then arrive,
        each channel perturbed. Checked on chirps, tones, noise, clicks, square waves and synthetic
        speech at the three rates: the standard deviation of every layer stays between 0.1 and 10,
        and under 1 % of the blocks' channels are zero throughout.
        """
        import torch

        rng = np.random.default_rng(seed)
        state: dict[str, np.ndarray[Any, Any]] = {}

        def norm(name: str, channels: int, mean: float, std: float) -> None:
            state[f"{name}.weight"] = rng.uniform(0.7, 1.3, channels)
            state[f"{name}.bias"] = rng.normal(0.0, 0.15, channels)
            state[f"{name}.running_mean"] = rng.normal(mean, 0.1 * std, channels)
            state[f"{name}.running_var"] = std**2 * rng.uniform(0.7, 1.4, channels)
            state[f"{name}.num_batches_tracked"] = np.array(1, np.int64)

        def weight(name: str, *shape: int) -> None:
            fan_in = math.prod(shape[1:])
            values = rng.standard_normal((shape[0], fan_in), np.float32)
            values -= values.mean(axis=1, keepdims=True)
            state[f"{name}.weight"] = (values * math.sqrt(2.0 / fan_in)).reshape(shape)

        norm("bn0", self.frontend.n_mels, *_LOG_MEL_MEAN_STD)
        for block, (before, after) in enumerate(zip((1, *CHANNELS), CHANNELS, strict=False), 1):
            for conv, channels, std in ((1, before, _CONV1_STD), (2, after, _CONV2_STD)):
                weight(f"conv_block{block}.conv{conv}", after, channels, 3, 3)
                norm(f"conv_block{block}.bn{conv}", after, 0.0, std)
        for name, outputs in (("fc1", CHANNELS[-1]), ("fc_audioset", _AUDIOSET_CLASSES)):
            weight(name, outputs, CHANNELS[-1])
            state[f"{name}.bias"] = rng.normal(0.0, 0.1, outputs)
        return {
            name: torch.from_numpy(v if v.dtype == np.int64 else v.astype(np.float32))
            for name, v in state.items()
        }

    def check_state(self, state: Tensors, layers: Sequence[int]) -> dict[str, torch.Tensor]:  # noqa: D102
        self._check_frontend(state)
        shapes = _shapes(self.frontend.n_mels)
        ignored = ["spectrogram_extractor.", "logmel_extractor.", "fc_audioset."]
        if EMBEDDING not in layers:
            # What follows the blocks may be a head of another training.
            shapes = {name: s for name, s in shapes.items() if not name.startswith("fc1.")}
            ignored.append("fc1.")
        # Every block is looked at, so that a checkpoint of another model is never half-used.
        tensors = fit_tensors(state, shapes, ignored=tuple(ignored))
        negative = [n for n, t in tensors.items() if n.endswith("_var") and bool((t < 0).any())]
        if negative:
            raise ExportError(
                f"the tensors {', '.join(negative)} hold negative variances: the checkpoint is "
                "damaged, fetch it again"
            )
        needed = {f"conv_block{block}" for block in range(1, _deepest(layers) + 1)} | {"bn0"}
        if EMBEDDING in layers:
            needed.add("fc1")
        return {name: t for name, t in tensors.items() if name.partition(".")[0] in needed}

    def fold(self, state: Tensors) -> dict[str, torch.Tensor]:  # noqa: D102
        scale, shift = _affine(state, "bn0")
        folded = {"bn0.scale": scale, "bn0.shift": shift}
        for name in state:
            block, _, rest = name.partition(".")
            if block == "fc1":
                folded[name] = state[name]
            elif rest in ("conv1.weight", "conv2.weight"):
                conv = f"{block}.conv{rest[4]}"
                scale, shift = _affine(state, f"{block}.bn{rest[4]}")
                folded[f"{conv}.weight"] = state[name].double() * scale[:, None, None, None]
                folded[f"{conv}.bias"] = shift
        return {name: tensor.float().contiguous() for name, tensor in folded.items()}

    def forward(  # noqa: D102
        self, folded: Tensors, log_mel: torch.Tensor, layers: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        from torch.nn import functional as F

        # bn0 stays apart: the first convolution pads with zeros after it.
        x = log_mel * folded["bn0.scale"] + folded["bn0.shift"]
        outputs = {}
        for block in range(1, _deepest(layers) + 1):
            for conv in (f"conv_block{block}.conv1", f"conv_block{block}.conv2"):
                x = F.conv2d(x, folded[f"{conv}.weight"], folded[f"{conv}.bias"], padding=1)
                x = F.relu(x)
            if block < len(CHANNELS):
                x = F.avg_pool2d(x, 2)
            outputs[block] = x
        if EMBEDDING in layers:
            x = x.mean(dim=3)
            x = x.amax(dim=2) + x.mean(dim=2)
            outputs[EMBEDDING] = F.relu(F.linear(x, folded["fc1.weight"], folded["fc1.bias"]))
        return tuple(outputs[number] for number in layers)

    def reference(  # noqa: D102
        self, state: Tensors, log_mel: torch.Tensor, layers: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        from torch.nn import functional as F

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            weight, bias, mean, var = (state[f"{name}.{part}"] for part in _NORM)
            return F.batch_norm(x, mean, var, weight, bias, eps=BATCH_NORM_EPS)

        x = norm(log_mel.transpose(1, 3), "bn0").transpose(1, 3)
        outputs = {}
        for block in range(1, _deepest(layers) + 1):
            name = f"conv_block{block}"
            x = F.relu(norm(F.conv2d(x, state[f"{name}.conv1.weight"], padding=1), f"{name}.bn1"))
            x = F.relu(norm(F.conv2d(x, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2"))
            x = F.avg_pool2d(x, 2 if block < len(CHANNELS) else 1)
            outputs[block] = x
        if EMBEDDING in layers:
            x = x.mean(dim=3)
            x = x.max(dim=2).values + x.mean(dim=2)
            outputs[EMBEDDING] = F.relu(F.linear(x, state["fc1.weight"], state["fc1.bias"]))
        return tuple(outputs[number] for number in layers)

    def _check_frontend(self, state: Tensors) -> None:
        """Refuse a checkpoint that carries the frontend of another model."""
        if _fits_frontend(state, self.frontend):
            return
        others = [m.name for m in MODELS if _fits_frontend(state, m.frontend)]
        if others:
            raise ExportError(
                f"the checkpoint's spectrogram is that of {others[0]}, not of {self.name}: "
                f"export {others[0]} from it"
            )
        raise ExportError(
            f"the checkpoint's spectrogram or mel filters are not those of {self.name} "
            f"({self.frontend.sample_rate} Hz, FFT of {self.frontend.n_fft} samples, "
            f"{self.frontend.n_mels} mel bins from {self.frontend.f_min:g} to "
            f"{self.frontend.f_max:g} Hz): use a checkpoint trained with that frontend"
        )


def _fits_frontend(state: Tensors, frontend: FrontendSpec) -> bool:
    """Whether the frontend tensors in ``state``, where it has any, are those of ``frontend``."""
    import torch

    bins = frontend.n_fft // 2 + 1
    stft = state.get("spectrogram_extractor.stft.conv_real.weight")
    if stft is not None and tuple(stft.shape) != (bins, 1, frontend.n_fft):
        return False
    mel = state.get("logmel_extractor.melW")
    if mel is None:
        return True
    expected = torch.from_numpy(filter_bank(frontend))
    # Filters are about 0.02 high; another upper edge moves them by more than 0.001.
    return bool(mel.shape == expected.shape and torch.allclose(mel.double(), expected, 0, 1e-4))


def _deepest(layers: Sequence[int]) -> int:
    """The last block that ``layers`` need."""
    return min(max(layers), len(CHANNELS))


def _affine(state: Tensors, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch norm ``name`` as scale and shift, FP64."""
    weight, bias, mean, var = (state[f"{name}.{part}"].double() for part in _NORM)
    scale = weight / (var + BATCH_NORM_EPS).sqrt()
    return scale, bias - mean * scale


def _shapes(n_mels: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model but its frontend and its classifier."""
    shapes: dict[str, tuple[int, ...]] = {f"bn0.{part}": (n_mels,) for part in _NORM}
    for block, (before, after) in enumerate(zip((1, *CHANNELS), CHANNELS, strict=False), start=1):
        for conv, channels in ((1, before), (2, after)):
            shapes[f"conv_block{block}.conv{conv}.weight"] = (after, channels, 3, 3)
            shapes |= {f"conv_block{block}.bn{conv}.{part}": (after,) for part in _NORM}
    last = CHANNELS[-1]
    return {**shapes, "fc1.weight": (last, last), "fc1.bias": (last,)}


CNN14_8K = Cnn14("cnn14_8k", PANNS_8K)
# The paper used the 16 kHz checkpoint, so that is what the plain name means.
CNN14_16K = Cnn14("cnn14_16k", PANNS_16K, aliases=("cnn14",))
CNN14_32K = Cnn14("cnn14_32k", PANNS_32K)

MODELS = (CNN14_8K, CNN14_16K, CNN14_32K)
