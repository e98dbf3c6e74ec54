"""AST, the Audio Spectrogram Transformer (Gong et al. 2021), the backbone of AST-Fusion.

A vision transformer (12 blocks, width 768) on 16×16 patches of the fbank with a stride of 10. Layer
l is block l: the model's final LayerNorm applied to the block's output, then its own pooling, the
mean of the CLS and the distillation token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ExportError
from ...frontend.frontend_spec import AST as FRONTEND
from ...spec import TOKENS, LayerSpec, SegmentRule, Token
from ..checkpoint import fit_tensors
from .base import Backbone

if TYPE_CHECKING:
    import torch

    from .base import Tensors

BLOCKS = 12
WIDTH = 768
HIDDEN = 3072
ATTENTION_HEADS = 12
PATCH = 16
STRIDE = 10
DEFAULT_FRAMES = 1024
# Patches in frequency and in time that the released positional embedding is for.
GRID = (12, 101)
# What transformers' configuration must say; its lengths follow from the tensors.
_CONFIG = MappingProxyType(
    {
        "model_type": "audio-spectrogram-transformer",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": ATTENTION_HEADS,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "patch_size": PATCH,
        "frequency_stride": STRIDE,
        "time_stride": STRIDE,
        "num_mel_bins": FRONTEND.n_mels,
        "layer_norm_eps": 1e-12,
    }
)
# timm's, with which AST was trained; transformers took its own default.
ORIGINAL_EPS = 1e-6
TRANSFORMERS_EPS = 1e-12
_PARTS = ("weight", "bias")


class Ast(Backbone):
    """AST for one input length.

    Args:
        frames: T, the length that the positional embedding is fitted to; ``None``: that of the
            checkpoint, 1024 where it is the released one.
        token: what a layer gives of its tokens: the mean of CLS and distillation token, or CLS.
        layer_norm_eps: epsilon of all LayerNorms.
        patches: in time, that the checkpoint's positional embedding is for.

    Raises:
        ExportError: fewer frames than a patch has, an unknown token rule.
    """

    name = "ast"
    frontend = FRONTEND
    default_layers = (5, 12)
    anchors = ("v.cls_token", "embeddings.cls_token")
    folder_config = _CONFIG

    def __init__(
        self,
        *,
        frames: int | None = None,
        token: Token = "cls_dist_mean",
        layer_norm_eps: float = ORIGINAL_EPS,
        patches: int = GRID[1],
    ) -> None:
        self._frames = frames
        self._patches = patches
        frames = _frames_for(patches) if frames is None else frames
        self._check_frames(frames, PATCH)
        if token not in TOKENS:
            raise ExportError(f"token={token!r}: expected {' or '.join(map(repr, TOKENS))}")
        self.min_frames = self.max_frames = frames
        self.segment = SegmentRule(frames=frames, last="pad")
        self.token: Token = token
        self.layer_norm_eps: float = layer_norm_eps
        self.layers = {
            number: LayerSpec(number=number, kind="vector", channels=WIDTH)
            for number in range(1, BLOCKS + 1)
        }

    def configured(self, *, frames: int | None, token: Token | None) -> Ast:  # noqa: D102
        return Ast(
            frames=self._frames if frames is None else frames,
            token=self.token if token is None else token,
            layer_norm_eps=self.layer_norm_eps,
            patches=self._patches,
        )

    def for_checkpoint(self, state: Tensors) -> Ast:  # noqa: D102
        family = _family(state)
        eps = ORIGINAL_EPS if family is _ORIGINAL else TRANSFORMERS_EPS
        (name,) = family["v.pos_embed"]
        patches = _patches(name, {name.removeprefix(_PREFIX): t for name, t in state.items()})
        return Ast(frames=self._frames, token=self.token, layer_norm_eps=eps, patches=patches)

    def frames_per_step(self, layers: Sequence[int]) -> int | None:  # noqa: D102
        return None

    def chunk_margin(self, layers: Sequence[int]) -> int | None:  # noqa: D102
        return None

    def random_state(self, seed: int) -> dict[str, torch.Tensor]:
        """Seeded weights that keep the activations alive, for tests and demonstrations.

        Matrices have the standard deviation 1/√(inputs), under which the scores of the attention
        have one of about 1 and each block adds about as much as it gets.
        """
        import torch

        rng = np.random.default_rng(seed)
        state: dict[str, np.ndarray[Any, Any]] = {}
        for name, shape in _SHAPES.items():
            if name.endswith((".norm.weight", ".norm1.weight", ".norm2.weight")):
                state[name] = rng.uniform(0.7, 1.3, shape)
            elif name.endswith(".bias"):
                state[name] = rng.normal(0.0, 0.15, shape)
            else:
                std = 1.0 / math.sqrt(math.prod(shape[1:])) if name.endswith(".weight") else 0.5
                state[name] = std * rng.standard_normal(shape, np.float32)
        return {name: torch.from_numpy(v.astype(np.float32)) for name, v in state.items()}

    def check_state(self, state: Tensors, layers: Sequence[int]) -> dict[str, torch.Tensor]:  # noqa: D102
        import torch

        sources = _family(state)
        prefix = _PREFIX if any(name.startswith(_PREFIX) for name in state) else ""
        bare = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        # Every block is looked at, so that a checkpoint of another model is never half-used.
        own = _SHAPES | {"v.pos_embed": (1, 2 + GRID[0] * self._patches, WIDTH)}
        shapes = {
            source: (own[name][0] // len(parts), *own[name][1:])
            for name, parts in sources.items()
            for source in parts
        }
        found = fit_tensors(
            bare, shapes, ignored=("classifier.", "mlp_head.", "v.head.", "v.head_dist.")
        )
        later = tuple(f"v.blocks.{block}." for block in range(max(layers), BLOCKS))
        return {
            name: torch.cat([found[part] for part in parts]) if len(parts) > 1 else found[parts[0]]
            for name, parts in sources.items()
            if not name.startswith(later)
        }

    def fold(self, state: Tensors) -> dict[str, torch.Tensor]:
        """The graph's tensors.

        Matrices are transposed for x·W, query, key and value are apart, and the two tokens hold
        their positions.
        """
        import torch

        exact = {name.removeprefix("v."): tensor.double() for name, tensor in state.items()}
        tokens = torch.cat([exact.pop("cls_token"), exact.pop("dist_token")], dim=1)
        positions = exact.pop("pos_embed")
        folded = {
            "positions": torch.cat(
                [tokens + positions[:, :2], fit_positions(positions[:, 2:], self.max_frames)], dim=1
            )
        }
        for name, tensor in exact.items():
            matrix = tensor.T if tensor.ndim == 2 else tensor
            if ".qkv." in name:
                for part, third in zip("qkv", matrix.chunk(3, dim=-1), strict=True):
                    folded[name.replace("qkv", part)] = third
            else:
                folded[name] = matrix
        return {name: tensor.float().contiguous() for name, tensor in folded.items()}

    def forward(  # noqa: D102
        self, folded: Tensors, log_mel: torch.Tensor, layers: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        from torch.nn import functional as F

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            weight, bias = (folded[f"{name}.{part}"] for part in _PARTS)
            return F.layer_norm(x, (WIDTH,), weight, bias, self.layer_norm_eps)

        def linear(x: torch.Tensor, name: str) -> torch.Tensor:
            return x @ folded[f"{name}.weight"] + folded[f"{name}.bias"]

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(2, (ATTENTION_HEADS, WIDTH // ATTENTION_HEADS)).transpose(1, 2)

        weight, bias = (folded[f"patch_embed.proj.{part}"] for part in _PARTS)
        patches = F.conv2d(log_mel.transpose(2, 3), weight, bias, stride=STRIDE)
        # Two rows of zeros for the tokens, which are all position.
        x = F.pad(patches.flatten(2).transpose(1, 2), (0, 0, 2, 0)) + folded["positions"]
        outputs = {}
        for number in range(1, max(layers) + 1):
            name = f"blocks.{number - 1}"
            y = norm(x, f"{name}.norm1")
            k, v = (heads(linear(y, f"{name}.attn.{part}")) for part in "kv")
            if number == max(layers):
                x, y = x[:, :2], y[:, :2]  # after the last block only the tokens are read
            # A power of two: the scores have the same bits whichever factor is scaled.
            q = heads(linear(y, f"{name}.attn.q")) * (WIDTH // ATTENTION_HEADS) ** -0.5
            y = (q @ k.transpose(2, 3)).softmax(dim=3) @ v
            x = x + linear(y.transpose(1, 2).flatten(2), f"{name}.attn.proj")
            y = linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
            x = x + linear(F.gelu(y), f"{name}.mlp.fc2")
            if number in layers:
                outputs[number] = self._pool(norm(x[:, :2], "norm"))
        return tuple(outputs[number] for number in layers)

    def reference(  # noqa: D102
        self, state: Tensors, log_mel: torch.Tensor, layers: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        import torch
        from torch.nn import functional as F

        def parts(name: str) -> tuple[torch.Tensor, torch.Tensor]:
            return state[f"v.{name}.weight"], state[f"v.{name}.bias"]

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.layer_norm(x, (WIDTH,), *parts(name), self.layer_norm_eps)

        x = F.conv2d(log_mel.transpose(2, 3), *parts("patch_embed.proj"), stride=STRIDE)
        tokens = torch.cat([state["v.cls_token"], state["v.dist_token"]], dim=1)
        x = torch.cat([tokens.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        positions = state["v.pos_embed"]
        x = x + torch.cat(
            [positions[:, :2], fit_positions(positions[:, 2:], log_mel.shape[2])], dim=1
        )
        outputs = {}
        for number in range(1, max(layers) + 1):
            name = f"blocks.{number - 1}"
            qkv = F.linear(norm(x, f"{name}.norm1"), *parts(f"{name}.attn.qkv"))
            heads = qkv.unflatten(2, (3, ATTENTION_HEADS, WIDTH // ATTENTION_HEADS))
            q, k, v = heads.permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + F.linear(y, *parts(f"{name}.attn.proj"))
            y = F.gelu(F.linear(norm(x, f"{name}.norm2"), *parts(f"{name}.mlp.fc1")))
            x = x + F.linear(y, *parts(f"{name}.mlp.fc2"))
            if number in layers:
                outputs[number] = self._pool(norm(x, "norm"))
        return tuple(outputs[number] for number in layers)

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised tokens [B, ≥ 2, WIDTH] to the layer's vector [B, WIDTH]."""
        return x[:, 0] if self.token == "cls" else x[:, :2].mean(dim=1)


def fit_positions(positions: torch.Tensor, frames: int) -> torch.Tensor:
    """The patches' positional embedding for an input of ``frames`` frames, as AST's authors do it.

    Args:
        positions: [1, 12·t₀, WIDTH], frequency before time; t₀ is 101 in the released file.
        frames: T.

    Returns:
        [1, 12·t, WIDTH] for t patches in time: cut from the middle where t is below t₀,
        interpolated (bilinear) above.
    """
    from torch.nn import functional as F

    patches = (frames - PATCH) // STRIDE + 1
    given = positions.shape[1] // GRID[0]
    grid = positions.transpose(1, 2).unflatten(2, (GRID[0], given))
    if patches < given:
        start = given // 2 - patches // 2
        grid = grid[:, :, :, start : start + patches]
    else:
        grid = F.interpolate(grid, size=(GRID[0], patches), mode="bilinear")
    return grid.flatten(2).transpose(1, 2)


def _frames_for(patches: int) -> int:
    """The input length that ``patches`` in time are for.

    Ten lengths have that many, and the model reads the same of each; the power of two among them,
    as AST's authors train with 128, 512 and 1024, or else the least.
    """
    least = (patches - 1) * STRIDE + PATCH
    power = 1 << (least + STRIDE - 1).bit_length() - 1
    return max(least, power)


def _patches(name: str, state: Tensors) -> int:
    """The patches in time that the positional embedding ``name`` of a checkpoint is for."""
    positions = state.get(name)
    if positions is None:
        return GRID[1]  # that it is missing is said of all that is
    shape = tuple(positions.shape)
    count = shape[1] - 2 if len(shape) == 3 else 0
    if shape[::2] != (1, WIDTH) or count < GRID[0] or count % GRID[0]:
        raise ExportError(
            f"{name} is {list(shape)}, expected [1, 2 + {GRID[0]}·t, {WIDTH}]: two tokens and t "
            f"columns of {GRID[0]} patches, {PATCH} × {PATCH} with a stride of {STRIDE}. A model "
            "of another stride or size cannot be exported"
        )
    return count // GRID[0]


def _shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the model but its classifiers, by the original names."""
    shapes: dict[str, tuple[int, ...]] = {
        "v.cls_token": (1, 1, WIDTH),
        "v.dist_token": (1, 1, WIDTH),
        "v.pos_embed": (1, 2 + math.prod(GRID), WIDTH),
        "v.patch_embed.proj.weight": (WIDTH, 1, PATCH, PATCH),
        "v.patch_embed.proj.bias": (WIDTH,),
    }
    linears = {
        "attn.qkv": (3 * WIDTH, WIDTH),
        "attn.proj": (WIDTH, WIDTH),
        "mlp.fc1": (HIDDEN, WIDTH),
        "mlp.fc2": (WIDTH, HIDDEN),
    }
    for block in range(BLOCKS):
        for norm in ("norm1", "norm2"):
            shapes |= {f"v.blocks.{block}.{norm}.{part}": (WIDTH,) for part in _PARTS}
        for name, shape in linears.items():
            shapes[f"v.blocks.{block}.{name}.weight"] = shape
            shapes[f"v.blocks.{block}.{name}.bias"] = shape[:1]
    return shapes | {f"v.norm.{part}": (WIDTH,) for part in _PARTS}


_Sources = Mapping[str, tuple[str, ...]]


def _transformers(block: str, names: Mapping[str, tuple[str, ...]]) -> _Sources:
    """The names in a version of transformers; query, key and value are tensors of their own."""
    fixed = {
        "v.cls_token": "embeddings.cls_token",
        "v.dist_token": "embeddings.distillation_token",
        "v.pos_embed": "embeddings.position_embeddings",
    }
    sources: dict[str, tuple[str, ...]] = {}
    for name in _SHAPES:
        stem, _, part = name.rpartition(".")
        if name in fixed:
            sources[name] = (fixed[name],)
        elif stem == "v.patch_embed.proj":
            sources[name] = (f"embeddings.patch_embeddings.projection.{part}",)
        elif stem == "v.norm":
            sources[name] = (f"layernorm.{part}",)
        else:
            _, _, index, inner = stem.split(".", 3)
            sources[name] = tuple(f"{block}.{index}.{own}.{part}" for own in names[inner])
    return sources


_PREFIX = "audio_spectrogram_transformer."
_SHAPES = _shapes()
# For every tensor by its original name those that it is made of, in the families of checkpoints.
_ORIGINAL: _Sources = {name: (name,) for name in _SHAPES}
# Files have kept the names of transformers 4; a state dict in memory has those of the version.
_FILES = _transformers(
    "encoder.layer",
    {
        "norm1": ("layernorm_before",),
        "norm2": ("layernorm_after",),
        "attn.qkv": tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
        "attn.proj": ("attention.output.dense",),
        "mlp.fc1": ("intermediate.dense",),
        "mlp.fc2": ("output.dense",),
    },
)
_MODULES = _transformers(
    "layers",
    {
        "norm1": ("layernorm_before",),
        "norm2": ("layernorm_after",),
        "attn.qkv": tuple(f"attention.{part}_proj" for part in "qkv"),
        "attn.proj": ("attention.o_proj",),
        "mlp.fc1": ("mlp.fc1",),
        "mlp.fc2": ("mlp.fc2",),
    },
)


def _family(state: Tensors) -> _Sources:
    """The family that shares most names with ``state``; the original where none does."""
    names = {name.removeprefix(_PREFIX) for name in state}

    def shared(sources: _Sources) -> int:
        return sum(part in names for parts in sources.values() for part in parts)

    return max((_ORIGINAL, _FILES, _MODULES), key=shared)
