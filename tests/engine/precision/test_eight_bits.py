"""An INT8 artifact in the form that the CPU's kernels take."""

from functools import cache

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import fusion_engine as fe
from fusion_engine.artifact import read_spec
from fusion_engine.engine import onnx as onnx_engine
from fusion_engine.engine.precision.eight_bits import cpu_form
from fusion_engine.frontend import Frontend
from fusion_engine.quantization import quantize

from ... import signals

RATE = 16_000
CLIP = signals.speech_like(0.4, RATE)  # the reference is slow


@pytest.fixture(scope="module")
def int8(shared, two_layers):
    def make(folder):
        quantize(two_layers, folder / "two.onnx")

    return shared("two_layers_int8", make) / "two.onnx"


def form(path, *, saturates):
    return cpu_form(onnx.load(path), read_spec(path), saturates=saturates)


@cache
def formed(path, *, saturates):
    """The form's layer outputs."""
    return outputs(form(path, saturates=saturates), path)


def outputs(model, path):
    spec = read_spec(path)
    log_mel = Frontend(spec.frontend)(CLIP)[None, None]
    names = [layer.name for layer in spec.layers]
    return ReferenceEvaluator(model).run(names, {"log_mel": log_mel})


def relative_l2(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_it_adds_little_to_the_error(int8, two_layers):
    """By ONNX's reference: activations in steps half as large, layer outputs rounded."""
    wanted = outputs(onnx.load(two_layers), two_layers)
    plain = outputs(onnx.load(int8), int8)
    found = formed(int8, saturates=False)
    for one, other, exact in zip(found, plain, wanted, strict=True):
        assert 1e-3 < relative_l2(one, exact) < 1.1 * relative_l2(other, exact)


def test_a_last_layer_is_rounded_to_what_calibration_saw(int8):
    """The first has the scale of what reads it."""
    values = formed(int8, saturates=False)[1]
    steps = values / (read_spec(int8).quantization.peaks[1] / 255)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert steps.max() < 255.001


def test_what_is_never_negative_is_unsigned(int8):
    model = form(int8, saturates=False)
    zeros = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    kinds = {
        node.input[0]: zeros[node.input[2]].dtype
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    assert set(kinds.values()) == {np.dtype(np.uint8)}


def test_weights_that_do_not_saturate_are_the_same_numbers(int8):
    other = form(int8, saturates=True)
    kinds = {t.name: t.data_type for t in other.graph.initializer if t.name.endswith(".weight.q")}
    assert set(kinds.values()) == {onnx.TensorProto.UINT8}
    both = formed(int8, saturates=False), formed(int8, saturates=True)
    for left, right in zip(*both, strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_engine_gives_what_the_form_says_with_and_without_vnni(int8, monkeypatch):
    wanted = formed(int8, saturates=False)
    found = []
    for saturates in (False, True):
        monkeypatch.setattr(onnx_engine, "saturates", lambda answer=saturates: answer)
        with fe.Engine(int8) as engine:
            found.append(list(engine.layer_outputs(CLIP).values()))
    for one, other, exact in zip(*found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
        # Convolutions round once to 8 bits where the graph says twice.
        assert relative_l2(one, exact[0]) < 0.02


def test_fp8_is_computed_as_the_graph_says(tmp_path, two_layers):
    """The higher optimisations of ONNX Runtime 1.32 fuse FP8 into errors of several hundred %."""
    path = tmp_path / "fp8.onnx"
    quantize(two_layers, path, precision="fp8")
    with fe.Engine(path) as engine:
        found = list(engine.layer_outputs(CLIP).values())
    for one, exact in zip(found, outputs(onnx.load(path), path), strict=True):
        assert relative_l2(one, exact[0]) < 0.02
