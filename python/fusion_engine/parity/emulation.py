"""A half-precision ONNX graph as an FP32 one that rounds where the typed one does.

ONNX Runtime's CPU provider computes FP16 in FP32, where 1e5 does not overflow, and has no BF16
convolution: the typed graph itself shows nothing there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ArtifactError

if TYPE_CHECKING:
    import onnx


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every FP16 and BF16 value as FP32, rounded behind the node that gives it.

    Raises:
        ArtifactError: the types of the graph's values cannot be inferred.
    """
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ArtifactError(f"the typed graph is not valid ONNX: {error}") from error
    graph = inferred.graph
    low = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type in _half_types()
    }
    for tensor in graph.initializer:
        if tensor.data_type in _half_types():
            tensor.CopyFrom(_wide(tensor))
    typed = {value.name for value in (*graph.value_info, *graph.output)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        unknown = [name for name in node.output if name and name not in typed]
        if unknown:  # it might be in half precision, and would not be rounded
            raise ArtifactError(
                f"the typed graph does not say the type of {unknown[0]}, which {node.op_type} "
                "gives: write it again with `fusion-engine build --typed-onnx`"
            )
        _widen_attributes(node)
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in low:
                node.output[index] = f"{name}.wide"
                nodes += _rounding(name, low[name])
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
    for value in (*graph.input, *graph.output):
        if value.name in low:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return inferred


def _rounding(name: str, kind: int) -> list[onnx.NodeProto]:
    """FP32 ``name.wide`` to FP32 ``name`` with the values of the type ``kind``."""
    import onnx

    down, up = f"{name}.wide", f"{name}.low"
    return [
        onnx.helper.make_node("Cast", [down], [up], to=kind),
        onnx.helper.make_node("Cast", [up], [name], to=onnx.TensorProto.FLOAT),
    ]


def _widen_attributes(node: onnx.NodeProto) -> None:
    """Casts to half precision, and constants in it, become FP32."""
    import onnx

    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i in _half_types():
            attribute.i = onnx.TensorProto.FLOAT
        elif attribute.t.data_type in _half_types():
            attribute.t.CopyFrom(_wide(attribute.t))


def _wide(tensor: onnx.TensorProto) -> onnx.TensorProto:
    import onnx

    array = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    return onnx.numpy_helper.from_array(array, tensor.name)


def _half_types() -> tuple[int, int]:
    import onnx

    return onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
