"""Modules in whatever state their owners left them, copied and exported all the same."""

import numpy as np
import pytest
import torch
from torch import nn

import fusion_engine as fe
from fusion_engine import ExportError
from fusion_engine.export import export_module
from fusion_engine.export.copies import computing_in_fp64, copied
from fusion_engine.frontend import FRONTENDS, Frontend

from .. import signals

PANNS = FRONTENDS["panns_16k"]


class Plain(nn.Module):
    """Tensors where ``Module.to`` does not look, and one made in the forward pass."""

    def __init__(self):
        super().__init__()
        self.weight = torch.randn(8, 64)
        self.shifts = [torch.randn(8)]
        self.scales = {"one": (torch.randn(8),)}
        self.index = torch.arange(8)
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, x):
        y = x @ self.weight.T + self.shifts[0] + torch.zeros(8)
        y = y @ torch.eye(8)
        return (y.float() * self.scales["one"][0])[..., self.index].to(x.dtype)


def normed(kind):
    conv = nn.Conv2d(1, 4, (3, 8), stride=(2, 8))
    module = nn.Sequential(kind(conv))
    module(torch.ones(1, 1, 9, 64)).sum().backward()
    return module


def old_weight_norm(conv):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(conv)


MODULES = {
    "weight_norm after a backward pass": lambda: normed(old_weight_norm),
    "its parametrization": lambda: normed(nn.utils.parametrizations.weight_norm),
    "spectral_norm after a backward pass": lambda: normed(nn.utils.spectral_norm),
    "plain attributes": lambda: nn.Sequential(Plain()),
    "bfloat16": lambda: nn.Sequential(nn.Conv2d(1, 4, (3, 8), stride=(2, 8))).bfloat16(),
    "in training": lambda: nn.Sequential(nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5))).train(),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_what_its_owner_left(make, tmp_path):
    torch.manual_seed(3)
    module = make()
    training, types = module.training, [p.dtype for p in module.parameters()]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    path = tmp_path / "x.onnx"
    export_module(module, path, layers=["0"], frontend=PANNS, frames=50)
    assert (module.training, [p.dtype for p in module.parameters()]) == (training, types)
    assert all(torch.equal(module.state_dict()[name], old) for name, old in before.items())
    x = signals.tone(0.49, 16_000)
    with torch.no_grad():
        output = module.eval().float()(torch.from_numpy(Frontend(PANNS).batch([x])))
    got = fe.Engine(path).layer_outputs(x)["layer_1"]
    assert np.abs(got - output.numpy()).max() <= 5e-6 * output.abs().max().item()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_everything_that_floats_is_moved(dtype):
    module = Plain()
    module.half()
    copy = copied(module, dtype)
    held = [copy.weight, copy.shifts[0], copy.scales["one"][0]]
    assert {tensor.dtype for tensor in held} == {dtype}
    assert (copy.index.dtype, copy.steps.dtype) == (torch.int64, torch.int64)
    assert module.weight.dtype == module.shifts[0].dtype == torch.float32


def test_fp64_throughout():
    """The values of a forward pass that names FP32 are those of one that does not."""
    x = torch.randn(2, 5, 64, dtype=torch.float64)
    module = copied(Plain(), torch.float64)
    with computing_in_fp64():
        got = module(x)
    y = x @ module.weight.T + module.shifts[0]
    expected = y * module.scales["one"][0]
    assert got.dtype == torch.float64
    assert torch.allclose(got, expected, rtol=1e-6)  # x.float() has rounded
    with pytest.raises(RuntimeError, match="dtype"):
        torch.zeros(2, 2) @ torch.zeros(2, 2, dtype=torch.float64)


def test_modules_without_values():
    with pytest.raises(ExportError, match=r"weight of Sequential has no shape yet: run the module"):
        copied(nn.Sequential(nn.LazyLinear(3)), torch.float64)
    with pytest.raises(ExportError, match="weight of Linear is on the meta device: load the weigh"):
        copied(nn.Linear(3, 3, device="meta"), torch.float64)


def test_a_module_that_refuses_to_be_copied(tmp_path):
    class Single(nn.Identity):
        def __deepcopy__(self, memo):
            raise TypeError("there is only one of me")

    with pytest.raises(
        ExportError, match=r"^Sequential cannot be copied: there is only one"
    ) as found:
        export_module(
            nn.Sequential(Single()), tmp_path / "x.onnx", layers=["0"], frontend=PANNS, frames=9
        )
    assert isinstance(found.value.__cause__, TypeError)


def test_torchscript_and_compiled_modules(tmp_path):
    class Pointwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1)

        def forward(self, x):
            return self.conv(x)

    with pytest.raises(ExportError, match="TorchScript: give the module that it was made from"):
        export_module(
            torch.jit.trace(Pointwise(), torch.zeros(1, 1, 9, 64)),
            tmp_path / "x.onnx",
            layers=["conv"],
            frontend=PANNS,
            frames=9,
        )
    report = export_module(
        torch.compile(Pointwise()),
        tmp_path / "x.onnx",
        layers=["conv"],
        frontend=PANNS,
        frames=9,
    )
    assert report.spec.model == "Pointwise"
