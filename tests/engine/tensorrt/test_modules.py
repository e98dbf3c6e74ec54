"""Ordinary torch modules: exported, in half precision on the CPU, and as plans."""

import copy
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fusion_engine.engine.precision import emulated_model, typed_model
from fusion_engine.engine.tensorrt import build
from fusion_engine.export import ModuleLayer, export_module
from fusion_engine.frontend.frontend_spec import FRONTENDS

from ..precision.conftest import TORCH_TYPES, run
from ..precision.test_error import MAX_RATIO, ROUNDOFF, max_error

pytestmark = pytest.mark.rtx

FRAMES = 32


class RmsNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(dim) + 0.5)

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, dim):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(dim, 4, 1), nn.ReLU(), nn.Conv2d(4, dim, 1))

    def forward(self, x):
        return x * self.layers(x.mean((2, 3), keepdim=True)).sigmoid()


class ResNet(nn.Module):
    """Residual blocks with every norm, a skip path that is resized, and power pooling."""

    def __init__(self):
        super().__init__()
        conv = partial(nn.Conv2d, 16, 16, 3, padding=1)
        self.stem = nn.Conv2d(1, 16, 3, 2, 1)
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU(), conv()),
                nn.Sequential(nn.InstanceNorm2d(16, affine=True), nn.Hardswish(), conv(groups=16)),
                nn.Sequential(nn.BatchNorm2d(16), nn.Mish(), conv(), Gate(16)),
            ]
        )
        self.down = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(16, 16, 1), nn.ELU())
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.map, self.vector = nn.Identity(), nn.Identity()

    def forward(self, x):
        x = (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-5)
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        y = self.down(x)
        x = self.map(x + F.interpolate(y, scale_factor=2.0, mode="bilinear") + self.up(y))
        pooled = x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
        self.vector(F.normalize(pooled, dim=1))


class Conformer(nn.Module):
    """Positions, causal attention, a gated depthwise convolution, and norms of two kinds."""

    def __init__(self, dim=32):
        super().__init__()
        self.stem = nn.Linear(64, dim)
        self.norm, self.qkv = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim)
        self.rms, self.gated = RmsNorm(dim), nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.batch_norm, self.last = nn.BatchNorm1d(dim), nn.Conv1d(dim, dim, 1)
        self.feed = nn.Sequential(nn.Linear(dim, 64), nn.GELU("tanh"), nn.Linear(64, dim))
        self.out = nn.LayerNorm(dim)

    def forward(self, x):
        x = self.stem(x[:, 0] / 30)
        steps = torch.arange(x.shape[1])[:, None] * torch.logspace(0, -4, 16)
        x = x + torch.cat([steps.sin(), steps.cos()], dim=1).to(x.dtype)
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + y.transpose(1, 2).flatten(2)
        y = self.depthwise(F.glu(self.gated(self.rms(x).transpose(1, 2)), dim=1))
        x = x + self.last(F.silu(self.batch_norm(y))).transpose(1, 2)
        self.out(x + self.feed(x))


CASES = {
    "resnet": (ResNet, ["map", "vector"], {"frames": FRAMES}),
    "conformer": (
        Conformer,
        [ModuleLayer(name="out", axes="BTC")],
        {"dynamic_from": FRAMES, "frames": 512},
    ),
}


@pytest.fixture(scope="module", params=list(CASES))
def exported(request, tmp_path_factory):
    """The module, the names of its layers, and its artifact."""
    make, layers, lengths = CASES[request.param]
    torch.manual_seed(0)
    module = make().eval()
    path = tmp_path_factory.mktemp("modules") / f"{request.param}.onnx"
    export_module(module, path, layers=layers, frontend=FRONTENDS["panns_16k"], **lengths)
    return module, [getattr(layer, "name", layer) for layer in layers], path


def outputs_of(module, names, log_mel, dtype):
    module = copy.deepcopy(module).to(dtype)
    caught = {}
    for name in names:
        module.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: caught.update({name: output})
        )
    with torch.inference_mode():
        module(torch.from_numpy(log_mel).to(dtype))
    return [caught[name].double().numpy() for name in names]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision(exported, precision, tmp_path):
    module, names, path = exported
    log_mel = np.random.default_rng(0).normal(-40, 20, (2, 1, FRAMES, 64)).astype(np.float32)
    got = run(emulated_model(typed_model(onnx.load(path), precision)), log_mel)
    exact = outputs_of(module, names, log_mel, torch.float64)
    torchs = outputs_of(module, names, log_mel, TORCH_TYPES[precision])
    for name, ours, want, other in zip(names, got, exact, torchs, strict=True):
        limit = MAX_RATIO * max_error(other, want) + ROUNDOFF[precision]
        # The artifact gives [B, C, T, 1] for [B, T, C].
        error = max_error(np.swapaxes(ours[..., 0], 1, 2) if want.ndim == 3 else ours, want)
        print(f"{name} {precision}: {error:.2e} (at most {limit:.2e})")
        assert error <= limit
    info = build(path, tmp_path / "a.plan", precision=precision)
    low = {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert [tensor.dtype for tensor in info.sidecar.tensors] == ["float32", *[low] * len(names)]
