"""What a half-precision graph computes, in FP32 for ONNX Runtime's CPU provider.

That provider says nothing about half precision: it computes FP16 nodes in FP32, where 1e5 does not
overflow, and has no BF16 convolution. The emulation therefore has FP32 nodes, weights that hold
rounded values, and a cast down and up after every node that rounds; a node that moves or chooses
values needs none. ONNX Runtime (1.17 and later) keeps such pairs at every level of optimisation,
since they lose precision, and they round to nearest, ties to even, with overflow to infinity: no
session option is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .rules import BF16_OPSET, EXACT
from .skeleton import Skeleton

if TYPE_CHECKING:
    import onnx


def emulated_model(typed: onnx.ModelProto) -> onnx.ModelProto:
    """What a typed graph computes, as an FP32 graph for ONNX Runtime's CPU provider.

    Its layer outputs are FP32 and hold only values of the low precision. Sums are accumulated in
    FP32, as tensor cores do; a product and the bias added to it are rounded apart, as the graph
    says, where TensorRT may fuse them and round once.

    Args:
        typed: what ``typed_model`` gives, or ``build --typed-onnx`` wrote; not changed.

    Raises:
        ArtifactError: the types of the graph's values cannot be inferred.
    """
    import onnx

    skeleton = Skeleton.of(typed)
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    low = {name: kind for name, kind in skeleton.element_types().items() if kind in half}
    graph = skeleton.model.graph
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        rounds = [name for name in node.output if name in low and node.op_type not in EXACT]
        if node.op_type == "Cast" and rounds:
            nodes += _rounding(node.input[0], node.output[0], low[node.output[0]])
            continue
        if node.op_type == "Cast" and node.input[0] in low:
            _widen_cast(node)
        _widen_constants(node)
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in rounds:
                node.output[index] = f"{name}.unrounded"
                nodes += _rounding(f"{name}.unrounded", name, low[name])
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    graph.initializer.extend(
        _wide(tensor) if name in low else tensor for name, tensor in skeleton.initializers.items()
    )
    for value in (*graph.input, *graph.output):
        if value.name in low:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for opset in skeleton.model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version == BF16_OPSET:
            opset.version -= 1  # what it added is BF16, and older ONNX Runtimes do not know it
    return skeleton.model


def _rounding(source: str, target: str, kind: int) -> list[onnx.NodeProto]:
    """FP32 ``source`` to FP32 ``target`` with the values of the type ``kind``."""
    import onnx

    between = f"{target}.low"
    return [
        onnx.helper.make_node("Cast", [source], [between], to=kind),
        onnx.helper.make_node("Cast", [between], [target], to=onnx.TensorProto.FLOAT),
    ]


def _widen_cast(node: onnx.NodeProto) -> None:
    """A cast of half precision to FP32 has nothing left to do."""
    import onnx

    if node.attribute[0].i == onnx.TensorProto.FLOAT:
        node.op_type = "Identity"
        del node.attribute[:]


def _widen_constants(node: onnx.NodeProto) -> None:
    """Constants in half precision become FP32."""
    import onnx

    for attribute in node.attribute:
        if attribute.t.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
            attribute.t.CopyFrom(_wide(attribute.t))


def _wide(tensor: onnx.TensorProto) -> onnx.TensorProto:
    import onnx

    array = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    return onnx.numpy_helper.from_array(array, tensor.name)
