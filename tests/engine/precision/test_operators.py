"""Operators one by one: what each makes of half precision, and what TensorRT's parser says."""

import numpy as np
import onnx
import pytest
from onnx import helper

from fusion_engine import ArtifactError
from fusion_engine.engine.precision import HalfPrecision, emulated_model, typed_model
from fusion_engine.engine.tensorrt import import_tensorrt
from fusion_engine.engine.tensorrt.serialize import parse

from .conftest import computed, run
from .test_graphs import TYPES, both, graph_of, relu


def words(text: str) -> list[str]:
    return text.split()


ONE_INPUT = words("""
Abs Ceil Cos Elu Erf Exp Floor GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity
LeakyRelu Log LogSoftmax Mish Neg Reciprocal Relu Round Selu Sigmoid Sign Sin Softmax Softplus
Softsign Sqrt Tanh ThresholdedRelu Trilu
""")
WITH_A_CONSTANT = words("Add Clip Div Max Min Mul PRelu Pow Sub")
COMPARISONS = words("Equal Greater GreaterOrEqual Less LessOrEqual")
OVER_AN_AXIS = words("""
CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
ReduceSum ReduceSumSquare
""")
OTHERS = ["ConvTranspose", "DepthToSpace", "Einsum", "Resize"]
ALL = ONE_INPUT + WITH_A_CONSTANT + COMPARISONS + OVER_AN_AXIS + OTHERS
AXIS = np.array(3, np.int64)
HALF = np.array(0.5, np.float32)


def node(kind: str, *inputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, ["x", *inputs], ["y"], **attributes)


def around(kind: str) -> onnx.ModelProto:
    """The operator between others that run in the low precision."""
    nodes, weights = [node(kind)], {}
    if kind in WITH_A_CONSTANT:
        nodes, weights = [node(kind, "half")], {"half": HALF}
    elif kind in COMPARISONS:
        chosen = helper.make_node("Where", ["b", "x", "half"], ["y"])
        nodes = [helper.make_node(kind, ["x", "half"], ["b"]), chosen]
        weights = {"half": HALF}
    elif kind in OVER_AN_AXIS:
        axis = AXIS if kind == "CumSum" else AXIS[None]
        nodes, weights = [node(kind, "axis")], {"axis": axis}
    elif kind == "ConvTranspose":
        nodes, weights = [node(kind, "kernel")], {}
    elif kind == "DepthToSpace":
        four = helper.make_node("Concat", ["x"] * 4, ["four"], axis=1)
        nodes = [four, helper.make_node(kind, ["four"], ["y"], blocksize=2)]
    elif kind == "Einsum":
        nodes = [node(kind, "x", equation="abcd,abcd->abc")]
    elif kind == "Resize":
        nodes = [node(kind, "", "scales", mode="linear")]
        weights = {"scales": np.array([1, 1, 2, 2], np.float32)}
    first = [helper.make_node("Conv", ["log_mel", "kernel"], ["a"]), relu("a", "x")]
    last = [
        helper.make_node("ReduceMax", ["y"], ["top"], keepdims=0),
        helper.make_node("Mul", ["x", "top"], ["layer_1"]),
    ]
    kernel = np.full((1, 1, 1, 1), 0.5, np.float32)
    return graph_of([*first, *nodes, *last], kernel=kernel, **weights)


@pytest.mark.rtx
@both
@pytest.mark.parametrize("kind", ALL)
def test_tensorrt_takes_it(kind: str, precision: HalfPrecision) -> None:
    typed = typed_model(around(kind), precision)
    onnx.checker.check_model(typed, full_check=True)
    library = import_tensorrt("tensorrt_rtx")
    trt = library.module
    builder = trt.Builder(library.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parse(library, network, typed.SerializeToString())
    low = {"fp16": trt.DataType.HALF, "bf16": trt.DataType.BF16}[precision]
    assert network.get_output(0).dtype == low


@both
@pytest.mark.parametrize("kind", ALL)
def test_the_emulation_is_the_typed_graph_s(kind: str, precision: HalfPrecision) -> None:
    """The same values, bit for bit, and an error that four roundings at most explain."""
    model = around(kind)
    typed, emulated = typed_model(model, precision), emulated_model(typed_model(model, precision))
    # Multiples of 1/8 up to 8: log-mel, convolution and its result are exact in either type.
    log_mel = np.random.default_rng(0).integers(1, 64, (2, 1, 4, 4)).astype(np.float32) / 4
    (got,), (want,) = run(emulated, log_mel), run(model, log_mel)
    assert np.array_equal(got, computed(typed, log_mel)[0])
    roundoff = {"fp16": 2.0**-11, "bf16": 2.0**-8}[precision]
    assert np.abs(got - want).max() <= 4 * roundoff * np.abs(want).max()


@both
def test_a_norm_that_is_spelled_out(precision: HalfPrecision) -> None:
    """x² is 9e4 or 1e-8 and the epsilon 1e-12: FP16 has none of them, and the result is near 1."""
    nodes = [
        relu(target="x"),
        node("Pow", "two"),
        helper.make_node("ReduceMean", ["y", "axis"], ["mean"]),
        helper.make_node("Add", ["mean", "epsilon"], ["variance"]),
        helper.make_node("Sqrt", ["variance"], ["deviation"]),
        helper.make_node("Reciprocal", ["deviation"], ["scale"]),
        helper.make_node("Mul", ["x", "scale"], ["normal"]),
        helper.make_node("Mul", ["normal", "weight"], ["layer_1"]),
    ]
    model = graph_of(
        nodes,
        two=np.array(2, np.float32),
        axis=AXIS[None],
        epsilon=np.array(1e-12, np.float32),
        weight=np.linspace(0.5, 2, 4, dtype=np.float32),
    )
    log_mel = np.array([[300.0, 200, 100, 50], [1e-4, 2e-4, 1e-4, 0], [0] * 4], np.float32)
    log_mel = log_mel.astype(TYPES[precision]).astype(np.float32)[None, None]
    typed = typed_model(model, precision)
    (got,), (want,) = run(emulated_model(typed), log_mel), run(model, log_mel)
    # One rounding, of the result.
    assert np.array_equal(got, want.astype(TYPES[precision]).astype(np.float32))
    assert sum(n.op_type == "Cast" for n in typed.graph.node) == 3


def test_the_floor_of_a_logarithm_survives() -> None:
    nodes = [relu(target="x"), node("Clip", "floor"), helper.make_node("Log", ["y"], ["layer_1"])]
    model = graph_of(nodes, floor=np.array(1e-10, np.float32))
    (got,) = run(emulated_model(typed_model(model, "fp16")), np.zeros((1, 1, 1, 4), np.float32))
    assert got == pytest.approx(np.log(1e-10), rel=2.0**-11)


def test_positions_are_counted_in_fp32() -> None:
    """6001 is no number of FP16, and not of BF16."""
    nodes = [
        relu(target="x"),
        helper.make_node("Shape", ["x"], ["sizes"], start=2, end=3),
        helper.make_node("Cast", ["sizes"], ["frames"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["frames", "rate"], ["angle"]),
        helper.make_node("Cos", ["angle"], ["wave"]),
        helper.make_node("Mul", ["x", "wave"], ["layer_1"]),
    ]
    model = graph_of(nodes, rate=np.array([0.1], np.float32))
    log_mel = np.ones((1, 1, 6001, 4), np.float32)
    for precision in ("fp16", "bf16"):
        (got,) = run(emulated_model(typed_model(model, precision)), log_mel)
        (want,) = run(model, log_mel)
        assert np.array_equal(got, want.astype(TYPES[precision]).astype(np.float32))


def test_a_resize_by_what_is_computed_is_refused() -> None:
    scales = np.array([1, 1, 2, 2], np.float32)
    twice = helper.make_node("Mul", ["scales", "scales"], ["twice"])
    last = helper.make_node("ReduceMax", ["y"], ["top"], keepdims=0)
    nodes = [relu(target="x"), twice, node("Resize", "", "twice"), last]
    nodes.append(helper.make_node("Mul", ["x", "top"], ["layer_1"]))
    with pytest.raises(ArtifactError, match=r"Resize \(on twice\) has scales that are computed"):
        typed_model(graph_of(nodes, scales=scales), "fp16")
