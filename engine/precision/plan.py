"""Which arithmetic every node of a backbone runs in: one plan for both half-precision graphs.

The rules, by what the graph is made of; no model and no name of a tracer occurs in them. The errors
are the largest of a layer's, as a fraction of its largest value, measured on the emulation:

- The affine in front of the first layer (CNN14's bn0: a scale and a shift per mel bin) runs in
  FP32 and the cast follows it. Log-mel reaches -100 dB, where the step of FP16 is 0.06 dB: cast
  first, it doubles the error of what the first convolution reads, and adds a tenth to layer 1's.
- LayerNormalization, and the other normalisations that carry statistics, run in FP32 with a cast
  on each side: their epsilon may be 1e-12 (transformers' AST), which is zero in FP16. A scale and
  bias in the low precision would alone add an eighth to AST's error.
- Means and sums over an axis run in FP32: an accumulator in the low precision would turn the error
  of a mean over 187 frames from 4e-4 to 3.5e-3 (FP16) and from 3e-3 to 3e-2 (BF16), TensorRT
  documents no type for it, and they are tiny.
- Attention scales q and k by d^-1/4 each before their product (`attention`).
- Everything else runs in the low precision, and the graph's outputs have it. Softmax needs no FP32
  of its own: its scores are a product in the low precision and its result is a factor of the next
  one, so that FP32 in between changes no bit where its sum is FP32, as in every library's kernel;
  casts around it would only hide the attention from TensorRT's fused kernels. (A sum in the low
  precision over 1214 tokens would show: 2e-2 in FP16, against 2e-4.) GELU's five operations in FP32
  would gain less than one part in a hundred.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from ...errors import ArtifactError
from .skeleton import Skeleton, describe

if TYPE_CHECKING:
    import onnx


class Rule(Enum):
    """How a node treats its floating-point values."""

    UNTYPED = auto()
    """Has none: shapes, indices, masks."""
    LEAD = auto()
    """FP32 in, FP32 out: before anything is rounded."""
    FP32 = auto()
    """Computes in FP32 on low-precision values and rounds its result."""
    ROUNDED = auto()
    """Computes in the low precision: accumulates in FP32, as tensor cores do, and rounds once."""
    EXACT = auto()
    """Moves or chooses values: what is representable stays so."""

    @property
    def low(self) -> bool:
        """Whether the typed node takes and gives the low precision."""
        return self in (Rule.ROUNDED, Rule.EXACT)


_EXACT = frozenset(
    [
        "Abs",
        "Concat",
        "Equal",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
        "Max",
        "MaxPool",
        "GlobalMaxPool",
        "Min",
        "Neg",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Relu",
        "Reshape",
        "Shape",
        "Sign",
        "Size",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
        "Clip",
    ]
)
_ROUNDED = frozenset(
    [
        "Add",
        "AveragePool",
        "Conv",
        "Div",
        "Elu",
        "Erf",
        "Gelu",
        "Gemm",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "MatMul",
        "Mul",
        "PRelu",
        "Selu",
        "Sigmoid",
        "Softmax",
        "Softplus",
        "Sub",
        "Tanh",
    ]
)
# Normalisations with their statistics, sums of any length, and what makes floats of something else.
_FP32 = frozenset(
    [
        "BatchNormalization",
        "Cast",
        "Constant",
        "ConstantOfShape",
        "GlobalAveragePool",
        "InstanceNormalization",
        "LayerNormalization",
        "Range",
        "ReduceMean",
        "ReduceSum",
    ]
)
_AFFINE = frozenset(["Add", "BatchNormalization", "Div", "Mul", "Sub"])
_MOVES = frozenset(
    ["Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"]
)
COVERED = _EXACT | _ROUNDED | _FP32


@dataclass(frozen=True)
class PrecisionPlan:
    """The rule of every node, and what it needs to be carried out.

    Args:
        rules: one for each node, in order.
        floats: every FP32 value and initializer of the FP32 graph.
        lead: the values, the graph's inputs among them, that stay FP32.
    """

    rules: tuple[Rule, ...]
    floats: frozenset[str]
    lead: frozenset[str]

    @classmethod
    def of(cls, skeleton: Skeleton) -> PrecisionPlan:
        """Plan an FP32 graph.

        Raises:
            ArtifactError: an operator that the rules do not cover, a subgraph, or floating-point
                values that are not FP32.
        """
        import onnx

        types = skeleton.element_types()
        problems = sorted(set(_problems(skeleton, types)))
        if problems:
            raise ArtifactError(
                f"no rule of half precision covers this graph: {'; '.join(problems)}. Build it "
                "with --precision fp32 or tf32, or export it without these."
            )
        floats = {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT}
        graph = skeleton.model.graph
        outputs = {value.name for value in graph.output}
        lead = {value.name for value in graph.input} & floats
        rules = []
        for node in graph.node:
            rule = _rule(node, floats)
            if _leads(node, lead, floats, skeleton) and not outputs.intersection(node.output):
                rule = Rule.LEAD
                lead.update(node.output)
            rules.append(rule)
        return cls(tuple(rules), frozenset(floats), frozenset(lead))


def _rule(node: onnx.NodeProto, floats: set[str]) -> Rule:
    if not floats.intersection((*node.input, *node.output)):
        return Rule.UNTYPED
    if node.op_type in _FP32:
        return Rule.FP32
    return Rule.EXACT if node.op_type in _EXACT else Rule.ROUNDED


def _leads(node: onnx.NodeProto, lead: set[str], floats: set[str], skeleton: Skeleton) -> bool:
    """Whether the node only moves, scales and shifts values that nothing has rounded."""
    if node.op_type not in _AFFINE | _MOVES:
        return False
    moved = [name for name in node.input if name in floats and name not in skeleton.initializers]
    if len(moved) != 1 or moved[0] not in lead:
        return False
    return bool(node.op_type != "Div" or node.input[0] == moved[0])


def _problems(skeleton: Skeleton, types: dict[str, int]) -> Iterator[str]:
    """What the rules do not cover, in words."""
    import onnx

    proto = onnx.TensorProto
    integers = (proto.INT8, proto.INT16, proto.INT32, proto.INT64, proto.UINT8, proto.BOOL)
    for node in skeleton.model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            yield f"{describe(node)} is of the domain {node.domain!r}"
            continue
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            yield f"{describe(node)} has a graph inside"
            continue
        kinds = {types[name] for name in (*node.input, *node.output) if name}
        for kind in sorted(kinds - {proto.FLOAT, *integers}):
            yield f"{describe(node)} has values of type {proto.DataType.Name(kind)}"
        if proto.FLOAT in kinds and node.op_type not in COVERED:
            yield f"{describe(node)} is an operator without a rule"
