"""Faults planted in real exports: every one must be found, and found where it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fusion_engine import ArtifactError, ExportError
from fusion_engine.engine.masking import mask_frames
from fusion_engine.export import export
from fusion_engine.parity import Certificate, Signal, certify

from .conftest import SHORT, Exported, edit_spec

SPEECH = SHORT[1:]


def failed_outputs(certificate: Certificate) -> set[str]:
    return {comparison.output for comparison in certificate.failures}


def failed_inputs(certificate: Certificate) -> set[str]:
    return {comparison.input for comparison in certificate.failures}


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    return tensor


def set_initializer(model: onnx.ModelProto, name: str, value: float) -> None:
    tensor = initializer(model, name)
    array = np.full(tuple(tensor.dims), value, np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_swapped_layers(vggish: Exported, edited, precision) -> None:
    def swap(model: onnx.ModelProto) -> None:
        names = {"layer_13": "layer_15", "layer_15": "layer_13"}
        for node in model.graph.node:
            node.output[:] = [names.get(name, name) for name in node.output]
            node.input[:] = [names.get(name, name) for name in node.input]

    artifact = edited(vggish.artifact, swap)
    certificate = certify(artifact, weights=vggish.weights, signals=SPEECH, precision=precision)
    assert not certificate
    assert failed_outputs(certificate) == {
        "layer_13",
        "layer_15",
        "frame_features",
        "embedding",
    }


def test_layers_of_other_shapes(early: Exported, edited) -> None:
    def swap(model: onnx.ModelProto) -> None:
        names = {"layer_1": "layer_3", "layer_3": "layer_1"}
        for value in (*model.graph.node, *model.graph.output):
            if isinstance(value, onnx.NodeProto):
                value.output[:] = [names.get(name, name) for name in value.output]
                value.input[:] = [names.get(name, name) for name in value.input]
        shapes = [onnx.TypeProto.FromString(v.type.SerializeToString()) for v in model.graph.output]
        for value, shape in zip(model.graph.output, reversed(shapes), strict=True):
            value.type.CopyFrom(shape)
        edit_spec(
            model,
            lambda spec: replace(
                spec,
                layers=(replace(spec.layers[1], number=1), replace(spec.layers[0], number=3)),
            ),
        )

    certificate = certify(edited(early.artifact, swap), weights=early.weights, signals=SHORT[:1])
    assert not certificate
    assert any("the model gives [64, 16, 32]" in problem for problem in certificate.problems)


@pytest.mark.parametrize("precision", [None, "fp16"])
def test_dropped_bias(vggish: Exported, edited, precision) -> None:
    artifact = edited(
        vggish.artifact, lambda model: set_initializer(model, "features.11.bias", 0.0)
    )
    certificate = certify(artifact, weights=vggish.weights, signals=SPEECH, precision=precision)
    assert not certificate
    assert failed_outputs(certificate) == {
        "layer_13",
        "layer_15",
        "frame_features",
        "embedding",
    }
    assert failed_inputs(certificate) == {"same_log_mel", "end_to_end"}


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_wrong_mel_scale(vggish: Exported, edited, precision) -> None:
    def slaney(model: onnx.ModelProto) -> None:
        edit_spec(
            model,
            lambda spec: replace(spec, frontend=replace(spec.frontend, mel_scale="slaney")),
        )

    artifact = edited(vggish.artifact, slaney)
    certificate = certify(artifact, weights=vggish.weights, signals=SPEECH, precision=precision)
    assert not certificate
    # The graph is right, its frontend is not.
    assert failed_inputs(certificate) == {"end_to_end"}


def test_time_pool_off_by_one(vggish: Exported, edited) -> None:
    def off_by_one(model: onnx.ModelProto) -> None:
        # Layer 13 alone: beside others its steps would not be theirs.
        (output,) = (value for value in model.graph.output if value.name == "layer_13")
        output = onnx.ValueInfoProto.FromString(output.SerializeToString())
        del model.graph.output[:]
        model.graph.output.append(output)
        edit_spec(
            model,
            lambda spec: replace(
                spec,
                layers=(replace(spec.layers[1], time_pool=1),),
                embedding_dim=spec.layers[1].dim,
            ),
        )

    certificate = certify(
        edited(vggish.artifact, off_by_one), weights=vggish.weights, signals=SPEECH
    )
    assert not certificate
    # The layer itself is right.
    assert failed_outputs(certificate) == {"frame_features", "embedding"}


def test_time_pools_that_contradict_each_other(early: Exported, edited) -> None:
    def off_by_one(model: onnx.ModelProto) -> None:
        edit_spec(
            model,
            lambda spec: replace(
                spec, layers=(spec.layers[0], replace(spec.layers[1], time_pool=3))
            ),
        )

    with pytest.raises(ArtifactError, match="pools time by 3"):
        certify(edited(early.artifact, off_by_one), weights=early.weights, signals=SPEECH)


def test_wrong_weights(vggish: Exported, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    state = torch.load(vggish.weights)
    state["features.0.bias"][0] += 1e-6
    torch.save(state, other)
    with pytest.raises(ExportError, match=r"other\.pth are not those of .*vggish\.onnx.*SHA-256"):
        certify(vggish.artifact, weights=other, signals=SPEECH)


def test_weights_that_only_claim_to_be_the_same(vggish: Exported, edited) -> None:
    def scale(model: onnx.ModelProto) -> None:
        tensor = initializer(model, "features.0.weight")
        array = onnx.numpy_helper.to_array(tensor) * np.float32(1 + 1e-4)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    certificate = certify(edited(vggish.artifact, scale), weights=vggish.weights, signals=SPEECH)
    assert failed_inputs(certificate) == {"same_log_mel", "end_to_end"}


def test_nan(vggish: Exported, edited) -> None:
    artifact = edited(
        vggish.artifact, lambda model: set_initializer(model, "features.13.bias", np.nan)
    )
    certificate = certify(artifact, weights=vggish.weights, signals=SPEECH)
    assert not certificate
    assert failed_outputs(certificate) == {"layer_15", "frame_features", "embedding"}
    (layer,) = (c for c in certificate.comparisons[:5] if c.output == "layer_15")
    assert layer.artifact.non_finite == 512 * 12 * 8
    assert "layer_15 holds values that are not finite" in certificate.problems[-1]


def test_fp16_overflow(vggish: Exported, tmp_path: Path) -> None:
    """A layer whose values exceed 1e5, scaled back after it: sound in FP32 and BF16."""
    state = torch.load(vggish.weights)
    for name in ("features.0.weight", "features.0.bias"):
        state[name] *= 2e4  # what FP16 holds of weights, but not of sums
    state["features.3.weight"] /= 2e4
    weights, artifact = tmp_path / "loud.pth", tmp_path / "loud.onnx"
    torch.save(state, weights)
    export("vggish", artifact, layers=[2, 5], weights=weights)
    loud = (Signal(kind="square", seconds=1.0),)
    verdicts = {
        precision: certify(artifact, weights=weights, signals=loud, precision=precision)
        for precision in (None, "bf16", "fp16")
    }
    weights.unlink()
    assert verdicts[None]
    assert verdicts["bf16"]
    assert not verdicts["fp16"]
    layer_2 = verdicts["bf16"].comparisons[0].artifact
    assert layer_2.max_value > 1e5
    assert all(comparison.artifact.non_finite for comparison in verdicts["fp16"].comparisons[:2])


# 288 frames: the last step that counts is at the very end, and the bucket is 320.
STEPS = (Signal(kind="speech", seconds=2.87),)


def masked(model: onnx.ModelProto) -> None:
    mask_frames(model)
    edit_spec(model, lambda spec: replace(spec, masked=True, max_frames=1_000))


def test_a_masked_artifact(early: Exported, edited) -> None:
    certificate = certify(edited(early.artifact, masked), weights=early.weights, signals=SHORT)
    assert certificate, certificate.failures


@pytest.mark.parametrize("fault", ["a mask is missing", "one frame too many"])
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_mask_that_lets_something_through(early: Exported, edited, fault, precision) -> None:
    """Alone each clip has its answer: only a batch with a longer one shows it."""

    def edit(model: onnx.ModelProto) -> None:
        masked(model)
        where = [node for node in model.graph.node if node.op_type == "Where"]
        if fault == "a mask is missing":
            (reader,) = (n for n in model.graph.node if where[0].output[0] in n.input)
            reader.input[0] = where[0].input[1]
        else:
            (mask,) = (node for node in model.graph.node if node.output[0] == "mask.1")
            mask.op_type = "LessOrEqual"

    certificate = certify(
        edited(early.artifact, edit), weights=early.weights, signals=STEPS, precision=precision
    )
    assert not certificate
    assert failed_outputs(certificate) == {"embedding"}
