"""A small network with all that 8 bits go around: a residual block, pooling, a mask, products."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

CHANNELS = 8


def residual(seed=0):
    """Log-mel [B, 1, T, 8] to ``layer_1`` [B, 8, T/2, 4]; its weights are seeded."""
    rng = np.random.default_rng(seed)

    def weight(name, *shape):
        spread = np.exp(rng.uniform(-2, 2, (shape[0],) + (1,) * (len(shape) - 1)))
        values = rng.standard_normal(shape) * spread / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(values.astype(np.float32), name)

    c = CHANNELS
    weights = [
        weight("stem.weight", c, 1, 3, 3),
        weight("a.weight", c, c, 3, 3),
        weight("b.weight", c, c, 3, 3),
        weight("c.weight", c, c, 3, 3),
        weight("depth.weight", c, 1, 3, 3),
        weight("head.weight", 4, 4),
    ]
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["log_mel", "stem.weight"], ["stem"], **same),
        helper.make_node("Relu", ["stem"], ["x"]),
        helper.make_node("Conv", ["x", "a.weight"], ["a"], **same),
        helper.make_node("Relu", ["a"], ["a_relu"]),
        helper.make_node("Conv", ["a_relu", "b.weight"], ["b"], **same),
        helper.make_node("Add", ["b", "x"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["sum_relu"]),
        helper.make_node("MaxPool", ["sum_relu"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pooled", "depth.weight"], ["deep"], group=c, **same),
        helper.make_node("Conv", ["pooled", "c.weight"], ["c"], **same),
        helper.make_node("Add", ["c", "deep"], ["both"]),
        helper.make_node("MatMul", ["both", "head.weight"], ["layer_1"]),
    ]
    for index, node in enumerate(nodes):
        node.name = f"node_{index}"
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("log_mel", kind, ["B", 1, "T", 8])],
        [helper.make_tensor_value_info("layer_1", kind, ["B", c, None, 4])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model
