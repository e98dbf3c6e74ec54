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


def vggish(seed: int = 0) -> torch.nn.Module:
    """``torchvggish``'s own VGG in FP32 without its PCA, random weights and biases."""
    from torchvggish.torchvggish import VGG, make_layers

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: torch.nn.Module = VGG(make_layers(), postprocess=False).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                torch.nn.init.kaiming_normal_(module.weight)
                torch.nn.init.normal_(module.bias, 0.0, 0.2)
    return model


def vggish_layers(model: torch.nn.Module, log_mel: torch.Tensor) -> dict[int, torch.Tensor]:
    """Every ReLU's output for log-mel [S, 1, 96, 64], numbered through all modules from 1."""
    modules = [*model.features, *model.embeddings]
    layers: dict[int, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output, n=number: layers.__setitem__(n, output.clone())
        )
        for number, module in enumerate(modules, start=1)
        if isinstance(module, torch.nn.ReLU)
    ]
    try:
        with torch.no_grad():
            model(log_mel)
    finally:
        for hook in hooks:
            hook.remove()
    return layers


def ast(seed: int = 0) -> Any:
    """``transformers``' ASTForAudioClassification in FP32, random in all its tensors.

    What enters the residual stream is scaled to a variance of about 1e-5, so that an epsilon of
    1e-6 in a LayerNorm moves the outputs by 5 %.
    """
    from transformers import ASTConfig, ASTForAudioClassification

    config = ASTConfig(num_labels=AUDIOSET_CLASSES, attn_implementation="sdpa")
    quiet = ("projection.", "_token", "position_embeddings", "o_proj.", "fc2.")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = ASTForAudioClassification(config).eval()
        for name, tensor in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                tensor.uniform_(0.7, 1.3)
            elif name.endswith("weight"):
                tensor.normal_(0.0, tensor[0].numel() ** -0.5)
            else:
                tensor.normal_(0.0, 0.2)
            if any(part in name for part in quiet):
                tensor *= 3e-3
    return model


def ast_original_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of transformers' ASTModel as AST's own repository saves it.

    With the wrapping of DataParallel, the classifier and the two heads that timm's model keeps.
    """
    out = {"v.head.weight": torch.ones(1000, 768), "v.head_dist.bias": torch.ones(1000)}
    out |= {"mlp_head.0.bias": torch.ones(768), "mlp_head.1.weight": torch.ones(527, 768)}
    renamed = {
        "embeddings.cls_token": "cls_token",
        "embeddings.distillation_token": "dist_token",
        "embeddings.position_embeddings": "pos_embed",
    }
    pairs = (
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("layernorm", "norm"),
        ("layers.", "blocks."),
        ("attention.o_proj", "attn.proj"),
    )
    for name, tensor in state.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            new, tensor = name.replace("attention.q_proj", "attn.qkv"), torch.cat(parts)
        else:
            new = renamed.get(name, name)
        for old, own in pairs:
            new = new.replace(old, own)
        out[f"v.{new}"] = tensor
    return {f"module.{name}": tensor for name, tensor in out.items()}


def ast_layers(
    model: Any, log_mel: torch.Tensor, *, eps: float, depth: int = 12
) -> dict[int, torch.Tensor]:
    """Blocks 1…depth of ``transformers``' ASTModel after its last LayerNorm, all tokens.

    [B, S, 768] each, for log-mel [B, 1, T, 128]. The positional embedding follows T as in AST's own
    repository; the model keeps its own.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = eps
    released, blocks = model.embeddings.position_embeddings, model.layers
    fitted = ast_positions(released.detach(), log_mel.shape[2])
    model.embeddings.position_embeddings = torch.nn.Parameter(fitted)
    model.layers = blocks[:depth]
    try:
        with torch.no_grad():
            out = model(log_mel[:, 0], output_hidden_states=True)
            layers = [model.layernorm(hidden) for hidden in out.hidden_states[1:]]
    finally:
        model.embeddings.position_embeddings, model.layers = released, blocks
    assert len(layers) == depth
    assert torch.equal(layers[-1], out.last_hidden_state)
    return dict(enumerate(layers, start=1))


def ast_positions(released: torch.Tensor, frames: int) -> torch.Tensor:
    """The positions [1, 2 + 12·t, 768] that AST's repository makes of its [1, 2 + 12·101, 768]."""
    count = torch.nn.functional.unfold(torch.zeros(1, 1, 128, frames), 16, stride=10).shape[2]
    steps = count // 12
    grid = released[0, 2:].reshape(12, 101, 768)
    if steps < 101:
        middle = 50 - int(steps / 2)
        grid = grid[:, middle : middle + steps]
    else:
        image = grid.permute(2, 0, 1)[None]
        image = torch.nn.functional.interpolate(image, size=(12, steps), mode="bilinear")
        grid = image[0].permute(1, 2, 0)
    return torch.cat([released[:, :2], grid.reshape(1, count, 768)], dim=1)
