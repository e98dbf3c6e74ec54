"""What the frontend takes over of a typed graph's first operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..network import INPUT
from ..network_input import LOG_MEL, DType, NetworkInput

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


def cut_frontend_part(model: onnx.ModelProto) -> NetworkInput:
    """Cut what is between log-mel and its cast to half precision out of a typed graph.

    That is a scale and an offset of each mel bin (a batch norm) and the cast; transposes and a mask
    stay. Nothing is cut where there is more, or where a result is used twice.

    Args:
        model: what ``typed_model`` gave; its input takes the type of the cast.

    Returns:
        What the graph takes now.
    """
    import onnx

    graph = model.graph
    source = next(value.type.tensor_type for value in graph.input if value.name == INPUT)
    n_mels = source.shape.dim[-1].dim_value
    weights = {tensor.name: tensor for tensor in graph.initializer}
    scales, offsets = np.ones(n_mels), np.zeros(n_mels)
    affine, cut, kept = False, [], []
    name = INPUT
    while (node := _only_reader(graph, name)) is not None:
        name = node.output[0]
        if node.op_type == "Transpose" or _is_mask(node, weights):
            kept.append(node)
            continue
        cut.append(node)
        if node.op_type == "Cast":
            break
        values = None if kept else _per_bin(node, weights, n_mels)
        if values is None:
            return LOG_MEL
        affine = True
        if node.op_type == "Mul":
            scales, offsets = scales * values, offsets * values
        else:
            offsets = offsets + values
    else:
        return LOG_MEL
    source.elem_type = onnx.helper.get_node_attr_value(cut[-1], "to")
    instead: dict[str, str] = {}
    for node in cut:
        (data,) = (value for value in node.input if value not in weights)
        instead[node.output[0]] = instead.get(data, data)
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [instead.get(value, value) for value in node.input]
    for node in kept:
        if node.op_type == "Where":
            node.input[2] = f"{node.output[0]}.zero"
            graph.initializer.append(
                onnx.helper.make_tensor(node.input[2], source.elem_type, [], [0.0])
            )
    read = {value for node in graph.node for value in node.input}
    for tensor in weights.values():
        if tensor.name not in read:
            graph.initializer.remove(tensor)
    dtypes: dict[int, DType] = {
        onnx.TensorProto.FLOAT16: "float16",
        onnx.TensorProto.BFLOAT16: "bfloat16",
    }
    dtype = dtypes[source.elem_type]
    if not affine:
        return NetworkInput(dtype=dtype)
    return NetworkInput.of(dtype, scales.astype(np.float32), offsets.astype(np.float32))


def _only_reader(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    readers = [node for node in graph.node if name in node.input and node.op_type != "Shape"]
    used = len(readers) + sum(value.name == name for value in graph.output)
    return readers[0] if used == 1 else None


def _is_mask(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node puts zeros in the place of some values."""
    import onnx

    if node.op_type != "Where" or node.input[2] not in weights:
        return False
    return not onnx.numpy_helper.to_array(weights[node.input[2]]).any()


def _per_bin(
    node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], n_mels: int
) -> NDArray[np.float64] | None:
    """What a Mul or an Add has for each mel bin, the last axis; ``None``: it is another node."""
    import onnx

    if node.op_type not in ("Mul", "Add"):
        return None
    constants = [weights[value] for value in node.input if value in weights]
    if len(constants) != 1 or constants[0].data_type != onnx.TensorProto.FLOAT:
        return None
    values = onnx.numpy_helper.to_array(constants[0])
    if values.size not in (1, n_mels) or values.shape[-1:] not in ((), (1,), (n_mels,)):
        return None
    return np.broadcast_to(values.reshape(-1).astype(np.float64), n_mels)
