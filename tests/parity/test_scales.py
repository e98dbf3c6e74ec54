"""Certificates of 8-bit artifacts: faults in one scale of many are found and named."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from fusion_engine.engine.precision.eight_bits import PEAKS_KEY
from fusion_engine.export import resolve
from fusion_engine.parity import Signal, certify
from fusion_engine.parity.bounds import bound_of
from fusion_engine.parity.scales import scale_problems
from fusion_engine.quantization import quantize

SIGNALS = (Signal(kind="speech", seconds=0.5),)


@pytest.fixture(scope="module", params=["int8", "fp8"])
def artifact(request, shared, two_layers) -> Path:
    """CNN14's layers 1 and 2; its random weights are made again from their seed."""

    def make(folder: Path) -> None:
        quantize(two_layers, folder / "two.onnx", precision=request.param)

    return shared(f"parity_two_layers_{request.param}", make) / "two.onnx"


@pytest.fixture(scope="module")
def problems():
    """``problems(path)``: sentences about the artifact, whose weights are ``random:0``."""
    backbone = resolve("cnn14")
    folded = backbone.fold(backbone.check_state(backbone.random_state(0), [1, 2]))
    weights = {name: tensor.numpy() for name, tensor in folded.items()}
    return lambda path: tuple(scale_problems(onnx.load(path), weights))


def scaled(name: str, factor: float, channel: int | None = None):
    def edit(model: onnx.ModelProto) -> None:
        (tensor,) = (t for t in model.graph.initializer if t.name == name)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[() if channel is None else channel] *= factor
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))

    return edit


def test_a_sound_artifact(artifact):
    certificate = certify(artifact, signals=SIGNALS)
    assert certificate, (certificate.problems, certificate.failures)
    precision = certificate.precision
    bound = bound_of("cnn14_16k", precision)
    for comparison in certificate.comparisons:
        whole = comparison.output == "embedding"
        assert comparison.required_l2_relative == min(bound if whole else 2 * bound, 0.25)
        # Beside what PyTorch loses in FP16 and FP32.
        fp32, fp16 = comparison.pytorch_fp32.l2_relative, comparison.pytorch.l2_relative
        assert fp32 < 1e-5 < fp16 < 0.01 < comparison.artifact.l2_relative
    assert certificate.to_dict()["comparisons"][0]["required_l2_relative"] == min(2 * bound, 0.25)


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_one_channel_of_one_weight(artifact, edited, problems, factor):
    name = "conv_block2.conv1.weight"
    assert problems(artifact) == ()
    wrong = edited(artifact, scaled(f"{name}.scale", factor, 7))
    assert problems(wrong) == (
        f"weight {name}: not the model's, to its 8 bits, in output channel 7",
    )


def test_a_certificate_fails_of_one_scale(artifact, edited):
    wrong = edited(artifact, scaled("conv_block2.conv1.weight.scale", 4.0, 7))
    certificate = certify(wrong, signals=SIGNALS)
    assert not certificate
    (problem,) = certificate.problems
    assert problem.startswith("weight conv_block2.conv1.weight: ")


def test_steps_that_are_coarser_than_they_need_to_be(artifact, edited, problems):
    """The weights are right for the scale; it is four times the one that was needed."""
    name = "conv_block1.conv2.weight"

    def edit(model: onnx.ModelProto) -> None:
        scaled(f"{name}.scale", 4.0, 3)(model)
        (tensor,) = (t for t in model.graph.initializer if t.name == f"{name}.q")
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[3] = np.rint(values[3].astype(np.float32) / 4).astype(values.dtype)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    (problem,) = problems(edited(artifact, edit))
    assert problem == f"weight {name}: not the model's, to its 8 bits, in output channel 3"


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_one_activation(artifact, edited, problems, factor):
    names = [
        node.input[1] for node in onnx.load(artifact).graph.node if node.op_type == "QuantizeLinear"
    ]
    for name in names:
        wrong = edited(artifact, scaled(name, factor))
        (problem,) = problems(wrong)
        assert problem.startswith(f"activation {name.removesuffix('.scale')}: its scale is ")


def test_ranges_that_are_not_recorded(artifact, edited, problems):
    def edit(model: onnx.ModelProto) -> None:
        (entry,) = (entry for entry in model.metadata_props if entry.key == PEAKS_KEY)
        model.metadata_props.remove(entry)

    found = problems(edited(artifact, edit))
    assert found
    assert all(problem.endswith("no range of it is recorded") for problem in found)


def test_a_zero_point(artifact, edited, problems):
    def edit(model: onnx.ModelProto) -> None:
        name = "conv_block1.conv2.weight.zero"
        (tensor,) = (t for t in model.graph.initializer if t.name == name)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[1] = 1
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))

    wanted = ("conv_block1.conv2.weight: its zero point is not 0",)
    assert problems(edited(artifact, edit)) == wanted
