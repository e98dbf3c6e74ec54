"""The error of half precision, measured on the emulation, against FP64 and beside PyTorch's."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from fusion_engine.engine.precision import HalfPrecision, emulated_model, typed_model

from .conftest import LAYERS, TORCH_TYPES, Case, run

# Half a step of the type at 1: the layer's largest value, rounded once.
ROUNDOFF = {"fp16": 2.0**-11, "bf16": 2.0**-8}
# Of PyTorch's largest error in the same precision; of its error on average, of which single
# values say less: it was measured at 0.65 to 1.01.
MAX_RATIO = 2.0
RMS_RATIO = 1.2


def max_error(got: NDArray[np.float32], want: NDArray[np.float64]) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def rms_error(got: NDArray[np.float32], want: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)))


FAST = [("cnn14", "fp16"), ("ast", "bf16")]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=() if (name, precision) in FAST else pytest.mark.slow)
        for name in LAYERS
        for precision in ("fp16", "bf16")
    ],
)
def test_every_layer_against_fp64_and_pytorch(
    cases: Callable[[str], Case], name: str, precision: HalfPrecision
) -> None:
    case = cases(name)
    typed = typed_model(case.graph(*case.layers), precision)
    onnx.checker.check_model(typed, full_check=True)
    exact = case.published(torch.float64)
    torchs = case.published(TORCH_TYPES[precision])
    for number, got, other, want in zip(
        case.layers, case.emulated(precision), torchs, exact, strict=True
    ):
        assert got.shape == want.shape
        limit = MAX_RATIO * max_error(other, want) + ROUNDOFF[precision]
        ratio = rms_error(got, want) / rms_error(other, want)
        summary = (
            f"{name} layer {number} {precision}: max {max_error(got, want):.2e} (at most "
            f"{limit:.2e}), rms {rms_error(got, want):.2e}, {ratio:.2f} of PyTorch's"
        )
        print(summary)
        assert max_error(got, want) <= limit, summary
        # An emulation that forgot to round would be far better than PyTorch.
        assert 0.5 <= ratio <= RMS_RATIO, summary


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_cast_after_bn0_halves_the_error(
    cases: Callable[[str], Case], precision: HalfPrecision
) -> None:
    """Of what the first convolution reads, against bn0 in the low precision throughout."""
    case = cases("cnn14")
    exact = case.backbone.fold(case.backbone.check_state(case.state, [1]))
    log_mel, dtype = torch.from_numpy(case.log_mel), TORCH_TYPES[precision]
    scale, shift = exact["bn0.scale"], exact["bn0.shift"]
    want = (log_mel.double() * scale.double() + shift.double()).numpy()
    before = log_mel.to(dtype) * scale.to(dtype) + shift.to(dtype)
    model = emulated_model(typed_model(case.graph(1), precision))
    (first,) = (n for n in model.graph.node if "conv_block1.conv1.weight" in n.input)
    del model.graph.output[:]
    model.graph.output.add(name=first.input[0]).type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    (after,) = run(model, case.log_mel)
    assert np.array_equal(after, torch.from_numpy(after).to(dtype).float().numpy())
    assert rms_error(after, want) <= 0.5 * rms_error(before.float().numpy(), want)
    # Nothing but the one rounding.
    assert np.abs(after - want).max() <= ROUNDOFF[precision] * np.abs(want).max()


def test_an_activation_of_1e5_overflows_fp16_alone(cases: Callable[[str], Case]) -> None:
    case = cases("cnn14")
    model = onnx.ModelProto()
    model.CopyFrom(case.graph(1))
    for tensor in model.graph.initializer:
        if tensor.name.startswith("conv_block1.conv1."):
            # Its largest output, 20 in the random model, becomes 1e5: the weights still fit.
            values = onnx.numpy_helper.to_array(tensor) * np.float32(5e3)
            assert np.abs(values).max() < 65504
            tensor.raw_data = values.tobytes()
    (want,) = run(model, case.log_mel)
    assert np.isfinite(want).all()
    (got,) = run(emulated_model(typed_model(model, "bf16")), case.log_mel)
    assert max_error(got, want.astype(np.float64)) < 0.02
    (got,) = run(emulated_model(typed_model(model, "fp16")), case.log_mel)
    assert not np.isfinite(got).all()
