"""The typed graph of an FP32 model.

TensorRT builds strongly typed networks only, so the precision of every node is in the graph.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..._words import listed
from ...errors import ArtifactError, NumericalError
from ...spec import METADATA_KEY, Spec
from .attention import balance_attention
from .masks import clamp_masks
from .rounding import HalfPrecision, Precision, half_bits, widened
from .rules import BF16_OPSET, GraphRules, Rule
from .skeleton import Skeleton

if TYPE_CHECKING:
    import onnx


def typed_model(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """The strongly typed graph of an exported FP32 model; its input stays FP32.

    Args:
        model: what ``fusion-engine export`` wrote, or of it ``quantize``; not changed.
        precision: ``fp16`` and ``bf16`` give layer outputs of that type; ``fp32`` and ``tf32``
            differ from the model in the spec alone.

    Returns:
        a model whose spec names the precision, or 8 bits still. It shares nothing with ``model``.

    Raises:
        ArtifactError: no spec, not FP32, or an operator that no rule covers.
        NumericalError: weights beyond the range of the precision; the message names them.
        ValueError: an unknown precision.
    """
    if precision in ("fp16", "bf16"):
        return _Writer(model, precision).model
    if precision not in ("fp32", "tf32"):
        raise ValueError(f"precision is {precision!r}, expected 'fp32', 'tf32', 'fp16' or 'bf16'")
    copy = type(model)()
    copy.CopyFrom(model)
    _set_precision(copy, precision)
    return copy


def _set_precision(model: onnx.ModelProto, precision: Precision) -> None:
    """Name the precision in the model's spec.

    Raises:
        ArtifactError: there is no spec, or it is not that of an FP32 model.
    """
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            spec = Spec.from_json(entry.value)
            if spec.quantization is not None:
                return  # the rest is in another precision: it is still an 8-bit model
            if spec.precision != "fp32":
                raise ArtifactError(
                    f"the model is {spec.precision} already: give the FP32 artifact that "
                    "`fusion-engine export` wrote"
                )
            entry.value = replace(spec, precision=precision).to_json()
            return
    raise ArtifactError(
        f"the model has no {METADATA_KEY!r} entry in its metadata, so it was not written by "
        "fusion_engine. Export it with `fusion-engine export`."
    )


class _Writer:
    """Carries the rules out."""

    def __init__(self, source: onnx.ModelProto, precision: HalfPrecision) -> None:
        import onnx

        skeleton = Skeleton.of(source)
        self.model = skeleton.model
        _set_precision(self.model, precision)
        balance_attention(skeleton)
        clamp_masks(skeleton, precision)
        self._rules = GraphRules.of(skeleton)
        self._weights = skeleton.initializers
        self._precision = precision
        self._low: int = (
            onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16
        )
        nodes = list(self.model.graph.node)
        self._uses = self._weight_uses(nodes)
        self._written: list[onnx.NodeProto] = []
        self._cast: dict[tuple[str, bool], str] = {}
        for node, rule in zip(nodes, self._rules.nodes, strict=True):
            self._write(node, rule)
        del self.model.graph.node[:]
        self.model.graph.node.extend(self._written)
        self._write_weights()
        self._type_outputs()

    def _weight_uses(self, nodes: list[onnx.NodeProto]) -> dict[str, set[bool]]:
        """For each initializer whether it is read in the low precision, in FP32, or in both."""
        uses = defaultdict(set)
        for node, rule in zip(nodes, self._rules.nodes, strict=True):
            for name in node.input:
                if name in self._weights:
                    uses[name].add(rule.low and name in self._rules.floats)
        return uses

    def _write(self, node: onnx.NodeProto, rule: Rule) -> None:
        # A shape is the same in every type.
        any_type = node.op_type == "Shape" and node.input[0] not in self._weights
        inputs = [
            self._as(name, low=rule.low) if name in self._rules.floats and not any_type else name
            for name in node.input
        ]
        node.input[:] = inputs
        self._written.append(node)
        if rule is not Rule.FP32:
            return
        for index, name in enumerate(node.output):
            if name in self._rules.floats:
                node.output[index] = f"{name}.unrounded"
                self._add_cast(f"{name}.unrounded", name, self._low)

    def _as(self, name: str, *, low: bool) -> str:
        """What holds ``name`` in the low precision or in FP32: itself, or a cast of it."""
        import onnx

        if name in self._weights:
            return self._weight_name(name, low=low)
        if low == (name not in self._rules.wide):
            return name
        if (name, low) not in self._cast:
            self._cast[name, low] = target = f"{name}.{self._precision if low else 'fp32'}"
            self._add_cast(name, target, self._low if low else onnx.TensorProto.FLOAT)
        return self._cast[name, low]

    def _add_cast(self, source: str, target: str, to: int) -> None:
        import onnx

        self._written.append(
            onnx.helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=to)
        )

    def _weight_name(self, name: str, *, low: bool) -> str:
        return name if low or len(self._uses[name]) == 1 else f"{name}.fp32"

    def _write_weights(self) -> None:
        lost = []
        for name, tensor in self._weights.items():
            for low in sorted(self._uses.get(name, ())):
                weight = self.model.graph.initializer.add()
                if low:
                    lost += self._write_rounded(tensor, weight)
                else:
                    weight.CopyFrom(tensor)
                weight.name = self._weight_name(name, low=low)
        if lost:
            better = "bf16 or fp32" if self._precision == "fp16" else "fp32"
            raise NumericalError(
                f"{self._precision} cannot hold these weights: {listed(lost)}. "
                f"Build with --precision {better}."
            )

    def _write_rounded(self, tensor: onnx.TensorProto, weight: onnx.TensorProto) -> list[str]:
        """Round ``tensor`` into ``weight``, and say what was lost with it."""
        import onnx

        values = onnx.numpy_helper.to_array(tensor)
        bits = half_bits(values, self._precision)
        rounded = widened(bits, self._precision)
        weight.dims.extend(tensor.dims)
        weight.data_type = self._low
        # ONNX keeps raw data in little-endian order.
        weight.raw_data = bits.astype("<u2", copy=False).tobytes()
        # A constant such as an epsilon must not vanish; small weights may.
        vanished = math.prod(tensor.dims) == 1 and bool((values != 0).any() and not rounded.any())
        if vanished or not np.array_equal(np.isfinite(rounded), np.isfinite(values)):
            return [f"{tensor.name} ({np.abs(values[np.isfinite(values)]).max():.3g})"]
        return []

    def _type_outputs(self) -> None:
        for value in self.model.graph.output:
            if value.name in self._rules.floats:
                value.type.tensor_type.elem_type = self._low
        for opset in self.model.opset_import:
            if self._precision == "bf16" and opset.domain in ("", "ai.onnx"):
                opset.version = max(opset.version, BF16_OPSET)
