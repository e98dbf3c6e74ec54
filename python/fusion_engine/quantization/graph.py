"""The graph of an 8-bit artifact: QuantizeLinear and DequantizeLinear around what is 8-bit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..engine.precision.eight_bits import PEAKS_KEY, QUANTIZED, RESTORED
from ..parity.bounds import EightBits
from ..spec import METADATA_KEY, Quantization, Spec
from .placement import Placement, leads

if TYPE_CHECKING:
    import onnx

_LARGEST = {"int8": 127.0, "fp8": 448.0}
# The first version of ONNX with scales in FP16 and BF16 and with FP8.
_OPSET = 21
# FP16's smallest number with all its digits.
_LEAST_SCALE = 2.0**-14


def quantized_model(
    model: onnx.ModelProto,
    placement: Placement,
    peaks: Mapping[str, float],
    *,
    precision: EightBits,
    quantization: Quantization,
) -> onnx.ModelProto:
    """The 8-bit model; layer outputs and all else stay FP32.

    Args:
        model: the FP32 artifact; not changed.
        placement: what becomes 8-bit.
        peaks: the largest |value| that each rounded activation has room for.
        precision: INT8, or FP8 of four bits of exponent and three of mantissa (E4M3).
        quantization: for the spec.
    """
    writer = _Writer(model, placement, peaks, precision)
    for entry in writer.model.metadata_props:
        if entry.key == METADATA_KEY:
            spec = Spec.from_json(entry.value)
            entry.value = replace(spec, precision=precision, quantization=quantization).to_json()
    recorded = {name: peaks[placement.scale_of(name)] for name in placement.values}
    writer.model.metadata_props.add(key=PEAKS_KEY, value=json.dumps(recorded, sort_keys=True))
    return writer.model


def scale_for(peak: float, precision: EightBits) -> np.float32:
    """The scale at which the largest number of 8 bits is ``peak``, or a little more.

    It has eight binary digits, so that it is the same number in FP32, FP16 and BF16.
    """
    mantissa, exponent = math.frexp(max(peak / _LARGEST[precision], _LEAST_SCALE))
    return np.float32(math.ldexp(math.ceil(mantissa * 256) / 256, exponent))


class _Writer:
    def __init__(
        self,
        source: onnx.ModelProto,
        placement: Placement,
        peaks: Mapping[str, float],
        precision: EightBits,
    ) -> None:
        import onnx

        graph = source.graph
        self._precision: EightBits = precision
        self._peaks = peaks
        self._placement = placement
        weights = {product.weight: product for product in placement.products}
        self.model = onnx.ModelProto(
            ir_version=max(source.ir_version, 10),
            producer_name=source.producer_name,
            producer_version=source.producer_version,
            opset_import=source.opset_import,
            metadata_props=source.metadata_props,
            graph=onnx.GraphProto(name=graph.name, input=graph.input, output=graph.output),
        )
        for opset in self.model.opset_import:
            if opset.domain in ("", "ai.onnx"):
                opset.version = max(opset.version, _OPSET)
        for tensor in graph.initializer:
            if tensor.name in weights:
                values = onnx.numpy_helper.to_array(tensor)
                self._round_weight(tensor.name, values, weights[tensor.name].axis % values.ndim)
            else:
                self.model.graph.initializer.append(tensor)
        rounded = set(placement.values)
        sources = {product.node: product.source for product in placement.products}
        readers = self._readers(graph, placement)
        for name in [value.name for value in graph.input if value.name in rounded]:
            self._round(name)
        for node in graph.node:
            copy = self.model.graph.node.add()
            copy.CopyFrom(node)
            for index, name in enumerate(node.input):
                if name in rounded and (sources.get(node.name) == name or node.name in readers):
                    copy.input[index] = name + RESTORED
            for name in node.output:
                if name in rounded:
                    self._round(name)

    @staticmethod
    def _readers(graph: onnx.GraphProto, placement: Placement) -> set[str]:
        """Nodes that are no products, and read rounded values."""
        rounded = set(placement.values)
        return {
            node.name
            for node in graph.node
            if (leads(node) and node.output[0] in rounded)
            or (node.op_type == "Add" and rounded.issuperset(node.input))
        }

    def _round(self, name: str) -> None:
        scale = scale_for(self._peaks[self._placement.scale_of(name)], self._precision)
        self._add_values(f"{name}.scale", scale)
        self._add_zeros(f"{name}.zero", ())
        what = [f"{name}.scale", f"{name}.zero"]
        self._add_node("QuantizeLinear", [name, *what], name + QUANTIZED)
        self._add_node("DequantizeLinear", [name + QUANTIZED, *what], name + RESTORED)

    def _round_weight(self, name: str, values: NDArray[np.float32], axis: int) -> None:
        """A scale for each output channel."""
        others = tuple(index for index in range(values.ndim) if index != axis)
        scales = np.array(
            [scale_for(float(peak), self._precision) for peak in np.abs(values).max(axis=others)],
            np.float32,
        )
        shape = [-1 if index == axis else 1 for index in range(values.ndim)]
        self._add_values(name + QUANTIZED, self._cast(values / scales.reshape(shape)))
        self._add_values(f"{name}.scale", scales)
        self._add_zeros(f"{name}.zero", scales.shape)
        inputs = [name + QUANTIZED, f"{name}.scale", f"{name}.zero"]
        self._add_node("DequantizeLinear", inputs, name, axis=axis)

    def _cast(self, values: NDArray[np.float32]) -> NDArray[Any]:
        import ml_dtypes

        if self._precision == "fp8":
            return values.astype(ml_dtypes.float8_e4m3fn)
        return np.clip(np.rint(values), -127, 127).astype(np.int8)

    def _add_zeros(self, name: str, shape: tuple[int, ...]) -> None:
        self._add_values(name, self._cast(np.zeros(shape, np.float32)))

    def _add_values(self, name: str, values: NDArray[Any] | np.generic) -> None:
        import onnx

        self.model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))

    def _add_node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        import onnx

        node = onnx.helper.make_node(operator, inputs, [output], name=output, **attributes)
        self.model.graph.node.append(node)
