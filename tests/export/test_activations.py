"""The ranges that an export records, against torch's own activations in FP64."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fusion_engine import Spec
from fusion_engine.export import ModuleLayer, export, export_module, resolve
from fusion_engine.export.verify import verification_inputs
from fusion_engine.frontend.frontend_spec import PANNS_16K

# FP32 against FP64, and six digits kept.
TOLERANCE = 1e-5


class Block(torch.nn.Module):
    """Convolution, residual, transposed weights, a linear without a bias and one used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.proj = torch.nn.Linear(64, 64)
        self.mix = torch.nn.Linear(64, 64, bias=False)
        self.layer = torch.nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.conv(x)
        x = self.proj(self.proj(x))
        return self.layer(x + self.mix(x).transpose(2, 3).transpose(3, 2))


def inputs_of(spec: Spec) -> list[torch.Tensor]:
    return [torch.from_numpy(log_mel).double() for log_mel in verification_inputs(spec)]


def measured(module: torch.nn.Module, inputs: list[torch.Tensor]) -> dict[str, float]:
    """Largest |output| of every convolution and linear, by module."""
    largest: dict[str, float] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: object, _inputs: object, output: torch.Tensor) -> None:
            largest[name] = max(largest.get(name, 0.0), float(output.abs().max()))

        return hook

    for name, child in module.named_modules():
        if isinstance(child, torch.nn.Conv2d | torch.nn.Linear):
            child.register_forward_hook(keep(name))
    with torch.inference_mode():
        for log_mel in inputs:
            module(log_mel)
    return largest


def test_a_module_of_ones_own(tmp_path: Path) -> None:
    module = Block().eval()
    report = export_module(
        module, tmp_path / "block.onnx", layers=["layer"], frontend=PANNS_16K, frames=48
    )
    want = measured(module.double(), inputs_of(report.spec))
    got = dict(report.activations)
    # Without a bias a transposed weight has no name: it is the third product.
    assert list(got) == ["stem", "conv", "conv (sum)", "proj", "matmul_3", "matmul_3 (sum)"]
    want["matmul_3"] = want.pop("mix")
    assert {key: got[key] for key in want} == pytest.approx(want, rel=TOLERANCE)
    kept = json.loads((tmp_path / "block.onnx.json").read_text())
    assert kept["activations"] == report.activations
    assert sorted(p.name for p in tmp_path.iterdir()) == ["block.onnx", "block.onnx.json"]


@pytest.mark.heavy
def test_vggish_before_its_relus(tmp_path: Path) -> None:
    """Against torch's modules; the largest value of a convolution is often a negative one."""
    report = export("vggish", tmp_path / "v.onnx", layers=[5], weights="random:0")
    state = resolve("vggish").random_state(0)
    convs = [torch.nn.Conv2d(1, 64, 3, padding=1), torch.nn.Conv2d(64, 128, 3, padding=1)]
    names = ["features.0", "features.3"]
    for name, conv in zip(names, convs, strict=True):
        conv.load_state_dict({part: state[f"{name}.{part}"] for part in ("weight", "bias")})
    pool, relu = torch.nn.MaxPool2d(2), torch.nn.ReLU()
    module = torch.nn.Sequential(convs[0], relu, pool, convs[1]).double()
    want = measured(module, inputs_of(report.spec))
    assert list(report.activations) == names
    assert list(report.activations.values()) == pytest.approx(list(want.values()), rel=TOLERANCE)


@pytest.mark.heavy
def test_ast_names_its_parts(tmp_path: Path) -> None:
    report = export("ast", tmp_path / "a.onnx", layers=[1], weights="random:0", frames=32)
    block = "blocks.0"
    assert list(report.activations) == [
        "patch_embed.proj",
        *(f"{block}.attn.{part}" for part in "kvq"),
        f"{block}.attn.proj",
        f"{block}.attn.proj (sum)",
        f"{block}.mlp.fc1",
        f"{block}.mlp.fc2",
        f"{block}.mlp.fc2 (sum)",
    ]
    assert all(0.1 < value < 100 for value in report.activations.values())


def test_tokens_of_a_transformer(tmp_path: Path) -> None:
    """Weights that the tracer transposed have the name of their bias."""
    torch.manual_seed(0)
    encoder = torch.nn.TransformerEncoderLayer(64, 4, 96, batch_first=True).eval()
    report = export_module(
        torch.nn.Sequential(encoder),
        tmp_path / "t.onnx",
        layers=[ModuleLayer(name="0", axes="BTC")],
        frontend=PANNS_16K,
        input_axes="BTM",
        frames=32,
    )
    assert list(report.activations) == [
        "0.self_attn.in_proj",
        "0.self_attn.out_proj",
        "0.self_attn.out_proj (sum)",
        "0.linear1",
        "0.linear2",
        "0.linear2 (sum)",
    ]
