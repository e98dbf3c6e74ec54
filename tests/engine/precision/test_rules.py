"""Which rule each node of the models gets."""

from collections.abc import Callable

import onnx
import pytest
from onnx import TensorProto, helper

from fusion_engine import ArtifactError
from fusion_engine.engine.precision import GraphRules, Rule, Skeleton
from fusion_engine.engine.precision.rules import COVERED

from .conftest import LAYERS, Case


def rules_of(model: onnx.ModelProto) -> dict[str, set[Rule]]:
    skeleton = Skeleton.of(model)
    rules: dict[str, set[Rule]] = {}
    for node, rule in zip(skeleton.model.graph.node, GraphRules.of(skeleton).nodes, strict=True):
        rules.setdefault(node.op_type, set()).add(rule)
    return rules


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "layers", "expected"),
    [
        (
            "cnn14",
            LAYERS["cnn14"],
            {
                "Mul": {Rule.WIDE},
                "Add": {Rule.WIDE},  # bn0's shift; maximum and mean of layer 7
                "Conv": {Rule.ROUNDED},
                "Relu": {Rule.EXACT},
                "AveragePool": {Rule.ROUNDED},
                "ReduceMax": {Rule.EXACT},
                "ReduceMean": {Rule.WIDE},
                "Gemm": {Rule.ROUNDED},
            },
        ),
        (
            "ast",
            (1, 2),
            {
                "Transpose": {Rule.WIDE, Rule.EXACT},  # the first one is of log-mel
                "Conv": {Rule.ROUNDED},
                "Reshape": {Rule.EXACT},
                "Pad": {Rule.EXACT},
                "Add": {Rule.ROUNDED},
                "LayerNormalization": {Rule.FP32},
                "MatMul": {Rule.ROUNDED},
                "Mul": {Rule.ROUNDED},
                "Softmax": {Rule.ROUNDED},
                "Div": {Rule.ROUNDED},
                "Erf": {Rule.ROUNDED},
                "Slice": {Rule.EXACT},
                "ReduceMean": {Rule.FP32},
            },
        ),
        (
            "vggish",
            (2, 5),
            {"Conv": {Rule.ROUNDED}, "Relu": {Rule.EXACT}, "MaxPool": {Rule.EXACT}},
        ),
    ],
)
def test_every_operator_has_its_rule(
    cases: Callable[[str], Case],
    name: str,
    layers: tuple[int, ...],
    expected: dict[str, set[Rule]],
) -> None:
    assert rules_of(cases(name).graph(*layers)) == expected
    assert expected.keys() <= COVERED


def test_names_play_no_part(cases: Callable[[str], Case]) -> None:
    """The same rules for a graph whose values and weights are all called something else."""
    model = cases("ast").graph(1, 2)
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    kept = {"", "log_mel", "layer_1", "layer_2"}
    names: dict[str, str] = {}

    def new(name: str) -> str:
        return name if name in kept else names.setdefault(name, f"x{len(names)}")

    for node in renamed.graph.node:
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        node.name = ""
    for tensor in renamed.graph.initializer:
        tensor.name = new(tensor.name)
    assert rules_of(renamed) == rules_of(model)


def test_shapes_and_masks_are_left_alone() -> None:
    """Shape arithmetic beside the values, and a mask that comes of comparing them."""
    shape = ["batch", 1, "frames", 4]
    nodes = [
        helper.make_node("Relu", ["log_mel"], ["a"]),
        helper.make_node("Shape", ["a"], ["sizes"]),
        helper.make_node("Mul", ["sizes", "ones"], ["same"]),
        helper.make_node("Less", ["a", "limit"], ["below"]),
        helper.make_node("Not", ["below"], ["above"]),
        helper.make_node("Where", ["above", "a", "limit"], ["b"]),
        helper.make_node("Reshape", ["b", "same"], ["layer_1"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("layer_1", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor("ones", TensorProto.INT64, [4], [1] * 4),
            helper.make_tensor("limit", TensorProto.FLOAT, [], [0.5]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    rules = rules_of(model)
    assert rules["Mul"] == rules["Not"] == {Rule.UNTYPED}
    assert rules["Less"] == rules["Where"] == rules["Shape"] == rules["Reshape"] == {Rule.EXACT}


def test_a_graph_inside_a_node_is_refused() -> None:
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["b"], value=zero)],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1])],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["yes"], ["layer_1"], then_branch=branch, else_branch=branch)],
        "toy",
        [helper.make_tensor_value_info("yes", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("layer_1", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(ArtifactError, match=r"If \(on yes\) has a graph inside"):
        rules_of(model)
