"""What is cut from a typed graph, by ONNX Runtime on both sides of the cut."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from fusion_engine.engine.network_input import LOG_MEL, NetworkInput
from fusion_engine.engine.precision import cut_frontend_part, typed_model

MELS = 64
RNG = np.random.default_rng(0)
SCALES, MORE = RNG.uniform(0.01, 0.1, (2, MELS)).astype(np.float32)
SHIFTS = RNG.normal(0, 1, MELS).astype(np.float32)
WEIGHTS = {"scales": SCALES, "more": MORE, "shifts": SHIFTS, "one": np.float32(1.5)}


def graph(*operations):
    """Operators with their inputs, each the first of what the one before gave; then the layer."""
    nodes, value = [], "log_mel"
    for index, (kind, inputs, attributes) in enumerate(operations):
        inputs = [value if name == "x" else name for name in inputs]
        nodes.append(helper.make_node(kind, inputs, [f"value{index}"], **attributes))
        value = f"value{index}"
    half = any(kind == "Cast" for kind, _, _ in operations)
    element = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes.append(helper.make_node("Relu", [value], ["layer_1"]))
    return helper.make_model(
        helper.make_graph(
            nodes,
            "typed",
            [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["S", 1, "T", MELS])],
            [helper.make_tensor_value_info("layer_1", element, ["S", 1, None, None])],
            [numpy_helper.from_array(values, name) for name, values in WEIGHTS.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


CAST = ("Cast", ["x"], {"to": TensorProto.FLOAT16})
TRANSPOSE = ("Transpose", ["x"], {"perm": [0, 1, 3, 2]})
MUL, ADD = ("Mul", ["x", "scales"], {}), ("Add", ["shifts", "x"], {})


def answer(model, log_mel):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (result,) = session.run(None, {"log_mel": log_mel})
    return result


@pytest.mark.parametrize(
    ("operations", "left"),
    [
        ([MUL, ADD, CAST], ["Relu"]),
        ([CAST], ["Relu"]),
        ([ADD, MUL, CAST], ["Relu"]),
        ([("Mul", ["one", "x"], {}), MUL, ("Add", ["x", "one"], {}), CAST], ["Relu"]),
        ([MUL, ADD, TRANSPOSE, CAST], ["Transpose", "Relu"]),
    ],
    ids=lambda value: " ".join(x[0] for x in value) if isinstance(value[0], tuple) else "",
)
def test_what_is_cut_is_what_the_input_says(operations, left):
    model = graph(*operations)
    log_mel = RNG.normal(-40, 20, (2, 1, 5, MELS)).astype(np.float32)
    expected = answer(model, log_mel)
    network_input = cut_frontend_part(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == left
    assert not model.graph.initializer
    assert network_input.dtype == "float16"
    values = network_input.values(MELS)
    if values is not None:
        log_mel = log_mel.astype(np.float64) * values[0] + values[1]
    got = answer(model, log_mel.astype(np.float16))
    # A scale and an offset that are made of several are rounded once: a unit in the last place.
    simple = len(operations) <= 3 and operations[0] is not ADD
    np.testing.assert_allclose(got, expected, rtol=0 if simple else 2**-10, atol=0)


@pytest.mark.parametrize(
    "operations",
    [
        [MUL, ADD],  # no cast
        [("Relu", ["x"], {}), CAST],
        [TRANSPOSE, ("Mul", ["x", "one"], {}), CAST],
        [("Mul", ["x", "x"], {}), CAST],
        [("Mul", ["x", "scales"], {}), ("Sub", ["x", "shifts"], {}), CAST],
    ],
    ids=lambda value: " ".join(x[0] for x in value),
)
def test_anything_else_stays(operations):
    model = graph(*operations)
    before = model.SerializeToString()
    assert cut_frontend_part(model) == LOG_MEL
    assert model.SerializeToString() == before


def test_what_is_used_twice_stays():
    model = graph(MUL, CAST)
    model.graph.output.append(helper.make_tensor_value_info("value0", TensorProto.FLOAT, None))
    before = model.SerializeToString()
    assert cut_frontend_part(model) == LOG_MEL
    assert model.SerializeToString() == before


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(
    ("model", "layer", "left", "batch_norm"),
    [
        ("cnn14", 1, ["Conv", "Relu"], True),
        ("vggish", 2, ["Conv", "Relu"], False),
        ("ast", 1, ["Transpose", "Conv"], False),
    ],
)
def test_the_models_begin_with_their_convolutions(cases, model, layer, left, batch_norm, precision):
    source = cases(model).graph(layer)
    typed = typed_model(source, precision)
    network_input = cut_frontend_part(typed)
    assert [node.op_type for node in typed.graph.node[:2]] == left
    assert network_input.dtype == {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert (network_input.affine is not None) == batch_norm
    if batch_norm:
        weights = {t.name: numpy_helper.to_array(t) for t in source.graph.initializer}
        expected = NetworkInput.of(network_input.dtype, weights["bn0.scale"], weights["bn0.shift"])
        assert network_input == expected
