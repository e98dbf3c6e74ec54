"""The graph with Q/DQ: its numbers are ONNX's own reference's, and those of plain arithmetic."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from fusion_engine.quantization.calibration import values_of
from fusion_engine.quantization.graph import quantized_model, scale_for
from fusion_engine.quantization.placement import place
from fusion_engine.spec import Quantization

from .graphs import residual

QUANTIZATION = Quantization(method="minmax", clips=1, sha256="0" * 64, peaks=(1.0,))
LOG_MEL = np.random.default_rng(1).standard_normal((2, 1, 6, 8)).astype(np.float32)
LARGEST = {"int8": 127, "fp8": 448}


def outputs(model, names, feeds):
    model = onnx.ModelProto.FromString(model.SerializeToString())
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return dict(zip(names, ReferenceEvaluator(model).run(names, feeds), strict=True))


def rounded_model(precision, keep=()):
    model = residual()
    placement = place(model.graph, keep)
    found = outputs(model, list(placement.values), {"log_mel": LOG_MEL})
    peaks = {name: float(np.abs(values).max()) for name, values in found.items()}
    return (
        quantized_model(model, placement, peaks, precision=precision, quantization=QUANTIZATION),
        placement,
        peaks,
    )


@given(st.floats(1e-30, 1e30), st.sampled_from(["int8", "fp8"]))
def test_scales_are_the_same_number_in_every_precision(peak, precision):
    scale = scale_for(peak, precision)
    assert scale == np.float32(ml_dtypes.bfloat16(scale))
    wanted = max(peak / LARGEST[precision], 2.0**-14)
    assert wanted <= float(scale) <= wanted * (1 + 2.0**-7)
    if scale < 65_504:
        assert scale == np.float32(np.float16(scale))


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_weights_are_the_nearest_numbers_of_a_scale_for_each_channel(precision):
    model, placement, _ = rounded_model(precision)
    exact = {t.name: onnx.numpy_helper.to_array(t) for t in residual().graph.initializer}
    names = [product.weight for product in placement.products]
    found = outputs(model, names, {"log_mel": LOG_MEL})
    for product in placement.products:
        wanted = np.moveaxis(exact[product.weight], product.axis, 0)
        values = np.moveaxis(found[product.weight], product.axis, 0)
        for row, got in zip(wanted, values, strict=True):
            scale = scale_for(float(np.abs(row).max()), precision)
            if precision == "int8":
                nearest = np.rint(row / scale).clip(-127, 127) * scale
            else:
                nearest = (row / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
            np.testing.assert_array_equal(got, nearest)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_whole_graph_against_plain_arithmetic(precision):
    """The residual sum: both inputs rounded, the products of rounded numbers."""
    model, _, peaks = rounded_model(precision)
    onnx.checker.check_model(model)
    names = ["x", "x.dq", "b", "b.dq", "sum", "sum_relu.dq", "pooled", "layer_1"]
    found = outputs(model, names, {"log_mel": LOG_MEL})

    def rounded(name):
        scale = scale_for(peaks[name], precision)
        if precision == "int8":
            return np.rint(found[name] / scale).clip(-128, 127) * scale
        eight = (found[name] / scale).astype(ml_dtypes.float8_e4m3fn)
        return eight.astype(np.float32) * scale

    np.testing.assert_array_equal(found["x.dq"], rounded("x"))
    np.testing.assert_array_equal(found["b.dq"], rounded("b"))
    np.testing.assert_allclose(found["sum"], found["x.dq"] + found["b.dq"], rtol=1e-6)
    tall = found["sum_relu.dq"]
    by_two = tall.reshape(*tall.shape[:2], 3, 2, 4, 2).max(axis=(3, 5))
    np.testing.assert_array_equal(found["pooled"], by_two)
    exact = outputs(residual(), ["layer_1"], {"log_mel": LOG_MEL})["layer_1"]
    error = np.linalg.norm(found["layer_1"] - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < (0.08 if precision == "int8" else 0.15)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_onnx_runtime_computes_what_the_graph_says(precision, spec):
    model, _, _ = rounded_model(precision)
    names = ["layer_1", "sum"]
    wanted = outputs(model, names, {"log_mel": LOG_MEL})
    found = values_of(model, names, spec)(LOG_MEL)
    for name in names:
        # A sum in another order may cross one rounding.
        error = np.linalg.norm(found[name] - wanted[name]) / np.linalg.norm(wanted[name])
        assert error < 5e-3


def test_what_is_kept_is_untouched():
    model, _, _ = rounded_model("int8", keep=["a", "b", "c"])
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds["a.weight"] == onnx.TensorProto.FLOAT
    assert kinds["head.weight.q"] == onnx.TensorProto.INT8
    assert "a.weight.q" not in kinds


def test_the_source_is_not_changed():
    model = residual()
    before = model.SerializeToString(deterministic=True)
    placement = place(model.graph)
    peaks = dict.fromkeys(placement.values, 1.0)
    made = [
        quantized_model(
            model, placement, peaks, precision="int8", quantization=QUANTIZATION
        ).SerializeToString(deterministic=True)
        for _ in range(2)
    ]
    assert model.SerializeToString(deterministic=True) == before
    assert made[0] == made[1]
