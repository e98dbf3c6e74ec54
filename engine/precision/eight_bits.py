"""An 8-bit artifact for ONNX Runtime's CPU kernels.

The artifact has what TensorRT wants: symmetric INT8 on both sides of what it fuses, and layer
outputs that are not rounded. ONNX Runtime would compute most of that in FP32. Its kernels take a
convolution whose output is rounded too, by a type that makes the ReLU superfluous. So here, and
only in memory:

- What is never negative becomes UINT8, of the same range in steps half as large.
- A layer output that a convolution gives is rounded to the range that calibration saw: for CNN14 it
  adds a hundredth to the error, and takes two fifths of the time.
- Without VNNI, x86's product of UINT8 and INT8 saturates (``vpmaddubsw``): weights become UINT8,
  with a zero point of 128, which is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

    from ...spec import Spec

QUANTIZED, RESTORED = ".q", ".dq"
"""What is added to a value's name: its 8 bits, and what these stand for."""
PEAKS_KEY = "fusion_engine.peaks"
"""Of the metadata: JSON of the largest |value| that each activation's scale has room for."""

_POOLS = ("AveragePool", "MaxPool")
_MOVES = (*_POOLS, "Identity", "QuantizeLinear", "DequantizeLinear", "Where")
_NOT_NEGATIVE = ("Relu", "Softmax", "Sigmoid")


def cpu_form(model: onnx.ModelProto, spec: Spec, *, saturates: bool) -> onnx.ModelProto:
    """Rewrite an INT8 artifact's graph, in place; one with scales in half precision stays.

    Args:
        model: what ``fusion-engine quantize`` wrote.
        spec: its spec.
        saturates: whether this CPU's product of UINT8 and INT8 does.
    """
    form = _CpuForm(model)
    if not form.is_fp32():
        return model
    form.round_outputs(spec)
    form.widen()
    if saturates:
        form.lift_weights()
    return model


class _CpuForm:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}

    def is_fp32(self) -> bool:
        """Whether all that is not 8-bit is FP32."""
        return all(
            self._get(node.input[1]).dtype == np.float32
            for node in self._graph.node
            if node.op_type == "QuantizeLinear"
        )

    def round_outputs(self, spec: Spec) -> None:
        """Round what convolutions give as layer outputs."""
        assert spec.quantization is not None
        for layer, peak in zip(spec.layers, spec.quantization.peaks, strict=True):
            name, inner = layer.name, f"{layer.name}.inner"
            if not self._is_convolved(name):
                continue
            maker = self._makers[inner] = self._makers.pop(name)
            maker.output[list(maker.output).index(name)] = inner
            for node in self._graph.node:
                for index, value in enumerate(node.input):
                    if value == name:
                        node.input[index] = inner
            restore = next((n for n in self._graph.node if n.output[0] == name + RESTORED), None)
            if restore is None:
                scale, zero = f"{name}.scale", f"{name}.zero"
                self._set(scale, np.float32(max(peak, 1e-9) / 127))
                self._set(zero, np.int8(0))
                self._add("QuantizeLinear", [inner, scale, zero], f"{name}{QUANTIZED}")
                values = [f"{name}{QUANTIZED}", scale, zero]
            else:
                values = list(restore.input)
            self._add("DequantizeLinear", values, name)

    def widen(self) -> None:
        """Make what is never negative UINT8."""
        for node in self._graph.node:
            if node.op_type == "QuantizeLinear" and self._is_not_negative(node.input[0]):
                self._set(node.input[2], np.uint8(0))
                self._set(node.input[1], np.float32(self._get(node.input[1]) * (127 / 255)))

    def lift_weights(self) -> None:
        """Make weights UINT8."""
        for node in self._graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in self._weights:
                for name in (node.input[0], node.input[2]):
                    values = self._get(name)
                    if values.dtype == np.int8:
                        self._set(name, (values.view(np.uint8) ^ 128).astype(np.uint8))

    def _is_convolved(self, name: str) -> bool:
        """Whether it is an 8-bit convolution's result, by way of nothing but ReLU and pooling."""
        node = self._makers[name]
        while node.op_type in ("Relu", *_MOVES) and _moved(node) in self._makers:
            node = self._makers[_moved(node)]
        return bool(node.op_type == "Conv" and node.input[0].endswith(RESTORED))

    def _is_not_negative(self, name: str) -> bool:
        node = self._makers.get(name)
        while node is not None and node.op_type in _MOVES:
            node = self._makers.get(_moved(node))
        return node is not None and node.op_type in _NOT_NEGATIVE

    def _add(self, operator: str, inputs: list[str], output: str) -> None:
        import onnx

        node = onnx.helper.make_node(operator, inputs, [output], name=output)
        self._makers[output] = self._graph.node.add()
        self._makers[output].CopyFrom(node)

    def _get(self, name: str) -> NDArray[Any]:
        import onnx

        values: NDArray[Any] = onnx.numpy_helper.to_array(self._weights[name])
        return values

    def _set(self, name: str, values: NDArray[Any] | np.generic) -> None:
        import onnx

        if name not in self._weights:
            self._weights[name] = self._graph.initializer.add()
        self._weights[name].CopyFrom(onnx.numpy_helper.from_array(np.asarray(values), name))


def _moved(node: onnx.NodeProto) -> str:
    """The value that a node moves: of a mask of zeros, what it lets through."""
    return str(node.input[1 if node.op_type == "Where" else 0])
