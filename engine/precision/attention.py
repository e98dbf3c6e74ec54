"""Attention with both factors of its product scaled alike.

softmax(s·q·kᵀ) is written in many ways: torch's ``scaled_dot_product_attention`` traces to √s on q
and √s on k, ``nn.MultiheadAttention`` with weights to s on q alone, older code to q·kᵀ divided by
1/s. The last one computes sums 1/s = √d times too large before it scales them, which overflows
FP16 where the scores themselves do not; the second gives q and k ranges that differ by √d. Here
every form becomes the first one, s·q·kᵀ = (√s·q)·(√s·k)ᵀ, with √s = d^-1/4.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

    from .skeleton import Skeleton

_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity"}


def balance_attention(skeleton: Skeleton) -> int:
    """Rewrite every attention product in place; what is not recognised stays as it is.

    Returns:
        how many products there are with q and k scaled alike, rewritten or found so.
    """
    graph = _Graph(skeleton)
    found = 0
    for node in graph.nodes:
        if node.op_type == "Softmax":
            product = graph.product_of(node.input[0])
            found += product is not None and graph.balance(product)
    graph.finish()
    return found


@dataclass
class _Product:
    """The product q·kᵀ under a softmax, and the scalings applied to it, outermost first."""

    matmul: onnx.NodeProto
    after: list[onnx.NodeProto] = field(default_factory=list)


class _Graph:
    """The nodes of a skeleton by what they produce, while they are rewritten."""

    def __init__(self, skeleton: Skeleton) -> None:
        self._graph = skeleton.model.graph
        self.nodes = list(self._graph.node)  # kept, so that a node has one identity
        self._initializers = skeleton.initializers
        self._producer = {name: node for node in self.nodes for name in node.output}
        self._uses = Counter(name for node in self.nodes for name in node.input)
        self._uses.update(value.name for value in self._graph.output)
        self._before: dict[int, list[onnx.NodeProto]] = {}
        self._dropped: set[int] = set()

    def product_of(self, value: str) -> _Product | None:
        """The product that the scores ``value`` are made of: mask(scale(q·kᵀ)), both optional."""
        node = self._producer.get(value)
        if node is not None and node.op_type in ("Add", "Where"):
            found = [self._scaled_product(name) for name in node.input]
            return next((product for product in found if product is not None), None)
        return self._scaled_product(value)

    def _scaled_product(self, value: str) -> _Product | None:
        node = self._producer.get(value)
        if node is None or self._uses[value] != 1:
            return None
        if node.op_type == "MatMul":
            weights = [name for name in node.input if name in self._initializers]
            return None if weights else _Product(node)
        if self._factor(node) is None:
            return None
        product = self._scaled_product(self._scaled_input(node))
        if product is not None:
            product.after.insert(0, node)
        return product

    def balance(self, product: _Product) -> bool:
        """Scale both factors of the product by the root of its whole scale."""
        sides = [self._scaling(name) for name in product.matmul.input]
        factors = [1.0 if node is None else self._factor(node) or 1.0 for node in sides]
        after = math.prod(self._factor(node) or 1.0 for node in product.after)
        scale = math.prod(factors) * after
        if after == 1.0 and math.isclose(*factors, rel_tol=1e-6):
            return scale != 1.0
        if scale <= 0.0:
            return False
        root = self._scalar(math.sqrt(scale))
        for index, node in enumerate(sides):
            if node is None:
                self._scale_operand(product.matmul, index, root)
            else:
                source = self._scaled_input(node)
                node.op_type = "Mul"
                node.input[:] = [source, root]
        self._drop(product)
        return True

    def _drop(self, product: _Product) -> None:
        """Take the scalings after the product out: it gives their value now."""
        if product.after:
            product.matmul.output[0] = product.after[0].output[0]
            self._dropped.update(id(node) for node in product.after)

    def _scale_operand(self, matmul: onnx.NodeProto, index: int, root: str) -> None:
        import onnx

        name = matmul.input[index]
        scaled = f"{matmul.output[0]}.{'qk'[index]}"
        node = onnx.helper.make_node("Mul", [name, root], [scaled], name=scaled)
        self._before.setdefault(id(matmul), []).append(node)
        matmul.input[index] = scaled

    def _scaling(self, value: str) -> onnx.NodeProto | None:
        """The multiplication by a scalar that ``value`` comes from, moved at most."""
        while self._uses[value] == 1:
            node = self._producer.get(value)
            if node is None:
                return None
            if self._factor(node) is not None:
                return node
            if node.op_type not in _MOVES:
                return None
            value = node.input[0]
        return None

    def _factor(self, node: onnx.NodeProto) -> float | None:
        """The constant that the node multiplies by; ``None`` where it does something else."""
        if node.op_type == "Div":
            divisor = self._constant(node.input[1])
            return 1.0 / divisor if divisor else None
        if node.op_type == "Mul":
            first, second = (self._constant(name) for name in node.input)
            return first if second is None else second
        return None

    def _scaled_input(self, node: onnx.NodeProto) -> str:
        return str(node.input[self._constant(node.input[0]) is not None])

    def _constant(self, name: str) -> float | None:
        import onnx

        tensor = self._initializers.get(name)
        if tensor is None or math.prod(tensor.dims) != 1:
            return None
        if tensor.data_type != onnx.TensorProto.FLOAT:
            return None
        return float(onnx.numpy_helper.to_array(tensor).reshape(()))

    def _scalar(self, value: float) -> str:
        """An FP32 initializer of ``value``, one for all that need it."""
        import onnx

        name = f"attention.scale_{value:.8g}"
        if name not in self._initializers:
            array = np.array(value, np.float32)
            self._initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def finish(self) -> None:
        """Put the new nodes in their places."""
        nodes = [
            part
            for node in self.nodes
            if id(node) not in self._dropped
            for part in (*self._before.get(id(node), ()), node)
        ]
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(copies)
