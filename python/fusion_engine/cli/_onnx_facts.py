"""What an ONNX file says of itself, beside the spec inside it."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArtifactError

_QUANTIZING = {"QuantizeLinear", "DequantizeLinear"}
_INTEGER = {"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}


@dataclass(frozen=True)
class OnnxFacts:
    """What a graph computes in, and where its weights are.

    Args:
        precision: ``int8``, ``fp8``, ``fp16``, ``bf16`` or ``fp32``, by its nodes and most weights.
        explicit: whether it has nodes that quantize (Q/DQ).
        external: files that hold its weights, by name, with their bytes; ``None``: missing.
    """

    precision: str
    explicit: bool
    external: dict[str, int | None]


def onnx_facts(path: Path) -> OnnxFacts:
    """Read the graph at ``path`` without its external data.

    Raises:
        ArtifactError: it is damaged.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError:
        raise ArtifactError(
            f"{path}: truncated or no ONNX file. Export it again with `fusion-engine export`."
        ) from None
    kinds = {
        onnx.TensorProto.FLOAT16: "fp16",
        onnx.TensorProto.BFLOAT16: "bf16",
        onnx.TensorProto.INT8: "int8",
        onnx.TensorProto.UINT8: "int8",
    }
    floats = [name for name in onnx.TensorProto.DataType.keys() if name.startswith("FLOAT8")]  # noqa: SIM118  # no mapping
    kinds |= {onnx.TensorProto.DataType.Value(name): "fp8" for name in floats}
    weights = Counter[str]()
    external: dict[str, int | None] = {}
    for tensor in graph.initializer:
        weights[kinds.get(tensor.data_type, "fp32")] += math.prod(tensor.dims)
        for entry in tensor.external_data:
            if entry.key == "location":
                file = path.parent / entry.value
                external[entry.value] = file.stat().st_size if file.is_file() else None
    nodes = {node.op_type for node in graph.node}
    precision = max(weights, key=weights.__getitem__, default="fp32")
    if nodes & (_QUANTIZING | _INTEGER):
        precision = "fp8" if weights["fp8"] else "int8"
    return OnnxFacts(precision, bool(nodes & _QUANTIZING), external)
