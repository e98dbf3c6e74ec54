"""The largest |activation| of an artifact's convolutions, linears and sums.

FP16 ends at 65 504. What a trained model reaches is seen only when it runs: batch norms folded into
convolutions and residual streams carry values that no weight shows.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..engine.network import fed
from ..engine.onnx import import_onnxruntime
from ..errors import ExportError
from ..spec import Spec

if TYPE_CHECKING:
    import onnx

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def watched_values(graph: onnx.GraphProto) -> dict[str, str]:
    """The values whose range matters, by name, each with a key that no tracer chose.

    A convolution or linear has the name of its weight, or of its bias where the exporter transposed
    the weight: ``conv_block3.conv1``, before the activation function; ``matmul_4`` is the fourth
    product, without a named weight. A sum of two activations follows the last linear that it adds:
    ``blocks.0.attn.proj (sum)``.
    """
    return dict(_watched(graph))


def _watched(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    weights = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    consumers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    order = {name: i for i, node in enumerate(graph.node) for name in node.output}
    counts: Counter[str] = Counter()
    keys: dict[str, str] = {}

    def linear_behind(value: str) -> str | None:
        """The convolution or linear whose output became ``value`` without meeting another one."""
        while value not in keys:
            node = producer.get(value)
            inputs = [name for name in node.input if name and name not in weights] if node else []
            if len(inputs) != 1:
                return None
            value = inputs[0]
        return value

    for node in graph.node:
        if node.op_type in _WEIGHTED:
            parameters = [name for name in node.input if name in weights]
            if not parameters:
                continue  # a product of activations
            output = node.output[0]
            after = consumers[output]
            if node.op_type == "MatMul" and [n.op_type for n in after] == ["Add"]:
                biases = [name for name in after[0].input if weights.get(name) == 1]
                parameters += biases
                output = after[0].output[0] if biases else output
            counts[node.op_type] += 1
            number = f"{node.op_type.lower()}_{counts[node.op_type]}"
            keys[output] = next(filter(None, map(_module_name, parameters)), number)
            yield output, keys[output]
        elif node.op_type == "Add" and not any(name in weights for name in node.input):
            found = [value for value in map(linear_behind, node.input) if value is not None]
            if found:
                yield node.output[0], f"{keys[max(found, key=order.__getitem__)]} (sum)"


def _module_name(parameter: str) -> str | None:
    """The module that a parameter belongs to; ``None`` for a name that the tracer made up."""
    module, _, leaf = parameter.removeprefix("module.").rpartition(".")
    if not module:
        return None
    kind = leaf.removesuffix("weight").removesuffix("bias").removesuffix("_")
    return f"{module}.{kind}" if kind else module


def measuring_nodes(values: Mapping[str, str]) -> bytes:
    """What, appended to an ONNX file, makes it give max |value| of ``values`` as further outputs.

    The scalar ``{value}.largest`` is all that is kept of an activation. Serialised messages of
    protobuf merge when they are joined, so that no weight has to be read or copied for it.
    """
    import onnx
    from onnx import helper

    model = onnx.ModelProto()
    for value in values:
        absolute, largest = f"{value}.absolute", f"{value}.largest"
        model.graph.node.append(helper.make_node("Abs", [value], [absolute]))
        model.graph.node.append(helper.make_node("ReduceMax", [absolute], [largest], keepdims=0))
        model.graph.output.append(
            helper.make_tensor_value_info(largest, onnx.TensorProto.FLOAT, [])
        )
    return bytes(model.SerializeToString())


def largest_activations(
    path: Path, spec: Spec, values: Mapping[str, str], inputs: Sequence[NDArray[np.float32]]
) -> dict[str, float]:
    """Run the artifact at ``path`` once more for the ranges of its inner values.

    Args:
        path: the artifact.
        spec: its spec.
        values: from ``watched_values``.
        inputs: log-mel [B, 1, T, n_mels].

    Returns:
        max |value| by key, in the order of the graph; the larger one where a module runs twice.
        Six digits.

    Raises:
        ExportError: ONNX Runtime refuses.
    """
    if not values:
        return {}
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors are raised
    names = [f"{value}.largest" for value in values]
    largest = dict.fromkeys(values.values(), 0.0)
    # In the same folder, where its external data is.
    copy = path.with_name(f"{path.stem}.measured.onnx")
    try:
        shutil.copyfile(path, copy)
        with copy.open("ab") as file:
            file.write(measuring_nodes(values))
        try:
            session = runtime.InferenceSession(
                os.fspath(copy), options, providers=["CPUExecutionProvider"]
            )
            runs = [session.run(names, fed(spec, log_mel)) for log_mel in inputs]
        except Exception as error:  # onnxruntime's own classes share no public base
            raise ExportError(f"ONNX Runtime cannot measure the activations: {error}") from error
    finally:
        copy.unlink(missing_ok=True)
    for outputs in runs:
        for key, value in zip(values.values(), outputs, strict=True):
            largest[key] = float(np.maximum(largest[key], value))
    return {key: float(f"{value:.6g}") for key, value in largest.items()}
