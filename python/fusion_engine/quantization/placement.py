"""Where the 8 bits go: what TensorRT fuses, by what the graph is made of.

As NVIDIA's Model Optimizer places them: both sides of convolutions and of products with weights,
pooling and masks that lead to one, and both inputs of a sum that a convolution gives. A convolution
of one input channel, which reads log-mel, has little to gain and the most to lose. Products of two
activations (attention) stay as they are, and so does all that is between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._words import listed

if TYPE_CHECKING:
    import onnx

_PRODUCTS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Product:
    """A convolution or a product with weights.

    Args:
        name: of its weight, without ``.weight``: the module's.
        node: the node's.
        source: its input.
        weight: its weight.
        axis: of the weight's output channels.
        output: its result, with a ReLU that follows at once.
    """

    name: str
    node: str
    source: str
    weight: str
    axis: int
    output: str


@dataclass(frozen=True)
class Placement:
    """What becomes 8-bit.

    Args:
        products: in the order of the graph.
        kept: products that could, and were asked to stay.
        values: activations that are rounded, in the order of the graph.
        shared: of those, the ones whose scale is another one's: what max-pooling and masks give.
    """

    products: tuple[Product, ...]
    kept: tuple[Product, ...]
    values: tuple[str, ...]
    shared: dict[str, str]

    def scale_of(self, value: str) -> str:
        """The value whose scale a rounded one has."""
        while value in self.shared:
            value = self.shared[value]
        return value


def place(graph: onnx.GraphProto, keep: Collection[str] = ()) -> Placement:
    """Choose.

    Args:
        graph: of an FP32 artifact.
        keep: names of products that stay.

    Raises:
        ValueError: a name in ``keep`` that is none.
    """
    found = _products(graph)
    unknown = sorted(set(keep) - {product.name for product in found})
    if unknown:
        raise ValueError(
            f"no layer {listed(unknown)} can be in 8 bits; expected some of "
            f"{listed([product.name for product in found], most=99)}"
        )
    products = tuple(p for p in found if p.name not in keep)
    makers = {name: node for node in graph.node for name in node.output}
    values = {product.source for product in products}
    convolved = {p.output for p in products if makers[p.output].op_type in ("Conv", "Relu")}
    shared = {}
    for node in reversed(graph.node):
        if leads(node) and node.output[0] in values:
            source = node.input[1 if node.op_type == "Where" else 0]
            values.add(source)
            if node.op_type != "AveragePool":
                shared[node.output[0]] = source
        if node.op_type == "Add" and convolved.intersection(node.input):
            values.update(name for name in node.input if name in makers)
    order = {name: index for index, name in enumerate(makers)}
    ordered = sorted(values, key=lambda name: order.get(name, -1))
    kept = tuple(p for p in found if p.name in keep)
    return Placement(products, kept, tuple(ordered), shared)


def leads(node: onnx.NodeProto) -> bool:
    """Whether a node pools, or masks with zeros (``Where``), so that 8 bits go through it."""
    return node.op_type in ("AveragePool", "MaxPool", "Where")


def _products(graph: onnx.GraphProto) -> list[Product]:
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    found = []
    for node in graph.node:
        if node.op_type not in _PRODUCTS or node.input[0] in weights:
            continue
        shape = weights.get(node.input[1], ())
        if len(shape) < 2 or (node.op_type == "Conv" and shape[1] == 1):
            continue
        output = node.output[0]
        if [reader.op_type for reader in readers[output]] == ["Relu"]:
            output = readers[output][0].output[0]
        found.append(
            Product(
                name=node.input[1].removesuffix(".weight"),
                node=node.name,
                source=node.input[0],
                weight=node.input[1],
                axis=_channels(node),
                output=output,
            )
        )
    return found


def _channels(node: onnx.NodeProto) -> int:
    """The axis of a weight's output channels."""
    if node.op_type == "MatMul":
        return -1
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1
