"""Attention masks whose minus infinity is a finite number.

What a mask adds to a score, or puts in its place, is often FP32's lowest number or -1e9. FP16 has
neither, and minus infinity itself would make NaN of a row that is masked throughout. Half the
lowest number of the type serves as well: a score is far smaller, the exponential of the sum is
zero, and two masks may be added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .rounding import HalfPrecision

if TYPE_CHECKING:
    from .skeleton import Skeleton

_HALF_LOWEST: dict[HalfPrecision, float] = {
    "fp16": float(np.finfo(np.float16).min) / 2,
    "bf16": -(2.0**127 - 2.0**119),
}
# What a mask is made of on its way to the softmax; a product ends it.
_PASSES = frozenset(
    [
        "Add",
        "Cast",
        "Concat",
        "Div",
        "Expand",
        "Gather",
        "Identity",
        "Mul",
        "Pad",
        "Reshape",
        "Slice",
        "Squeeze",
        "Sub",
        "Tile",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
    ]
)


def clamp_masks(skeleton: Skeleton, precision: HalfPrecision) -> None:
    """Raise the finite constants under each softmax to half the lowest number of the type.

    A constant that something else reads too stays as it is.
    """
    import onnx

    nodes = list(skeleton.model.graph.node)
    producer = {name: node for node in nodes for name in node.output}
    inside: set[str] = set()
    found = [node.input[0] for node in nodes if node.op_type == "Softmax"]
    while found:
        name = found.pop()
        if name in inside:
            continue
        inside.add(name)
        node = producer.get(name)
        if node is not None and node.op_type in _PASSES:
            found.extend(node.input)
    outside = {
        name
        for node in nodes
        if node.op_type not in _PASSES or not inside.intersection(node.output)
        for name in node.input
    }
    lowest = np.float32(_HALF_LOWEST[precision])
    for name in (inside & skeleton.initializers.keys()) - outside:
        tensor = skeleton.initializers[name]
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        low = np.isfinite(values) & (values < lowest)
        if low.any():
            clamped = np.where(low, lowest, values)
            skeleton.initializers[name] = onnx.numpy_helper.from_array(clamped, name)
