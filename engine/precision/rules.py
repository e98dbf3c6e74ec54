"""Which arithmetic every node of a backbone runs in, in half precision.

The rules, by what the graph is made of; no model and no name of a tracer occurs in them. The errors
are the largest of a layer's, as a fraction of its largest value, measured on the emulation:

- What leads from the input to the first layer (CNN14's bn0: a scale and a shift per mel bin) runs
  in FP32 and the cast follows it. Log-mel reaches -100 dB, where the step of FP16 is 0.06 dB: cast
  first, it doubles the error of what the first convolution reads, and adds a tenth to layer 1's.
- LayerNormalization, and the other normalisations that carry statistics, run in FP32 with a cast
  on each side: their epsilon may be 1e-12 (transformers' AST), which is zero in FP16. A scale and
  bias in the low precision would alone add an eighth to AST's error.
- Means and sums over an axis run in FP32: an accumulator in the low precision would turn the error
  of a mean over 187 frames from 4e-4 to 3.5e-3 (FP16) and from 3e-3 to 3e-2 (BF16), TensorRT
  documents no type for it, and they are tiny.
- Powers, roots, reciprocals, exponentials and logarithms run in FP32, and so does the arithmetic
  that reads them or a mean: a norm that is spelled out (RMSNorm, Lp pooling) squares its input,
  which overflows FP16 above 255, and divides by what may be as small as its epsilon. Only what
  leaves the island is rounded. So is a number made of an integer: positions are exact in FP16 to
  2048 alone, in BF16 to 256.
- Recurrent layers run in FP32: their rounding would add up from step to step.
- Attention scales q and k by d^-1/4 each before their product (`attention`), and what its masks
  add stays finite (`masks`).
- What is 8-bit stays so: QuantizeLinear takes, and DequantizeLinear gives the low precision.
- Everything else runs in the low precision, and the graph's outputs have it. Softmax needs no FP32
  of its own: its scores are a product in the low precision and its result is a factor of the next
  one, so that FP32 in between changes no bit where its sum is FP32, as in every library's kernel;
  casts around it would only hide the attention from TensorRT's fused kernels. (A sum in the low
  precision over 1214 tokens would show: 2e-2 in FP16, against 2e-4.) GELU's five operations in FP32
  would gain less than one part in a hundred.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from ...errors import ArtifactError
from .skeleton import Skeleton, describe_node

if TYPE_CHECKING:
    import onnx


class Rule(Enum):
    """How a node treats its floating-point values."""

    UNTYPED = auto()
    """Has none: shapes, indices, masks."""
    WIDE = auto()
    """Computes in FP32, and its result stays FP32 until something else reads it."""
    FP32 = auto()
    """Computes in FP32 and rounds its result."""
    ROUNDED = auto()
    """Computes in the low precision: accumulates in FP32, as tensor cores do, and rounds once."""
    EXACT = auto()
    """Moves or chooses values: what is representable stays so."""

    @property
    def low(self) -> bool:
        """Whether the typed node takes and gives the low precision."""
        return self in (Rule.ROUNDED, Rule.EXACT)


def _operators(names: str) -> frozenset[str]:
    return frozenset(names.split())


EXACT = _operators(
    """
    Abs Ceil Clip Concat DepthToSpace DequantizeLinear Equal Expand Flatten Floor Gather
    GatherElements GatherND GlobalMaxPool Greater GreaterOrEqual Identity IsNaN Less LessOrEqual Max
    MaxPool Min Neg Pad QuantizeLinear ReduceMax ReduceMin Relu Reshape Round Shape Sign Size Slice
    SpaceToDepth Split Squeeze ThresholdedRelu Tile Transpose Trilu Unsqueeze Where
    """
)
_ROUNDED = _operators(
    """
    Add AveragePool Conv Div Elu Erf Gelu Gemm HardSigmoid LeakyRelu MatMul Mul PRelu Selu
    Sigmoid Softmax Softplus Softsign Sub Tanh
    """
)
# Their results are as tame as their inputs: rounded at once. ONNX has no BF16 Einsum,
# and TensorRT-RTX 1.7 neither parses BF16 HardSwish and Mish nor builds BF16 ConvTranspose.
_FP32 = _operators(
    """
    BatchNormalization Cast Constant ConstantOfShape ConvTranspose Cos Einsum GRU GlobalAveragePool
    HardSwish InstanceNormalization LSTM LayerNormalization LogSoftmax Mish RNN Resize Sin
    """
)
# Their results may be huge or tiny: what reads them decides.
_WIDE = _operators(
    """
    CumSum Exp Log Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean
    ReduceProd ReduceSum ReduceSumSquare Sqrt
    """
)
_ARITHMETIC = _operators("Abs Add Ceil Clip Div Floor Max Min Mul Neg Round Sub")
# What continues in FP32 on such results, and on the graph's inputs.
_CARRIES = _ARITHMETIC | _operators(
    """
    BatchNormalization Expand Flatten Gather Identity Reshape Slice Squeeze Transpose Unsqueeze
    Where
    """
)
COVERED = EXACT | _ROUNDED | _FP32 | _WIDE
# The first version of ONNX in which all of them take BF16; it added nothing else.
BF16_OPSET = 22


@dataclass(frozen=True)
class GraphRules:
    """The rule of every node of a graph, and what it needs to be carried out.

    Args:
        nodes: the rule of each, in order.
        floats: every FP32 value and initializer of the FP32 graph.
        wide: the values, the graph's inputs among them, that stay FP32.
    """

    nodes: tuple[Rule, ...]
    floats: frozenset[str]
    wide: frozenset[str]

    @classmethod
    def of(cls, skeleton: Skeleton) -> GraphRules:
        """The rules of an FP32 graph.

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
        wide = set(lead)
        readers = defaultdict(set)
        for node in graph.node:
            for name in node.input:
                readers[name].add(node.op_type)
        rules = []
        for node in graph.node:
            rule = _rule(node, floats, types)
            read = (floats & set(node.input)) - skeleton.initializers.keys()
            # On what is wide, or on nothing but inputs of the graph.
            carries = node.op_type in _CARRIES and (read & wide - lead or (read and read <= lead))
            # The argument of a power, a root or a mean: its square or its floor may not fit.
            prepares = rule.low and node.op_type in _ARITHMETIC
            prepares = prepares and set() < readers[node.output[0]] <= _WIDE
            if carries or prepares:
                rule = Rule.WIDE
            if rule is Rule.WIDE and outputs.intersection(node.output):
                rule = Rule.FP32
            if rule is Rule.WIDE:
                wide.update(node.output)
                if node.op_type in _CARRIES and read <= lead:
                    lead.update(node.output)
            rules.append(rule)
        return cls(tuple(rules), frozenset(floats), frozenset(wide))


def _rule(node: onnx.NodeProto, floats: set[str], types: Mapping[str, int]) -> Rule:
    """The node's rule by itself, whatever it reads."""
    if not floats.intersection((*node.input, *node.output)):
        return Rule.UNTYPED
    if node.op_type in _WIDE or _counts(node, floats, types):
        return Rule.WIDE
    if node.op_type in _FP32:
        return Rule.FP32
    return Rule.EXACT if node.op_type in EXACT else Rule.ROUNDED


def _counts(node: onnx.NodeProto, floats: set[str], types: Mapping[str, int]) -> bool:
    """Whether the node makes a number of an integer."""
    import onnx

    if node.op_type != "Cast" or node.output[0] not in floats or node.input[0] in floats:
        return False
    return bool(types[node.input[0]] != onnx.TensorProto.BOOL)


def _problems(skeleton: Skeleton, types: dict[str, int]) -> Iterator[str]:
    """What the rules do not cover, in words."""
    import onnx

    proto = onnx.TensorProto
    others = {proto.INT8, proto.INT16, proto.INT32, proto.INT64, proto.UINT8, proto.BOOL}
    others.add(proto.FLOAT8E4M3FN)  # what is 8-bit stays so
    for node in skeleton.model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            yield f"{describe_node(node)} is of the domain {node.domain!r}"
            continue
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            yield f"{describe_node(node)} has a graph inside"
            continue
        kinds = {types[name] for name in (*node.input, *node.output) if name}
        for kind in sorted(kinds - others - {proto.FLOAT}):
            yield f"{describe_node(node)} has values of type {proto.DataType.Name(kind)}"
        if proto.FLOAT in kinds and node.op_type not in COVERED:
            yield f"{describe_node(node)} is an operator without a rule"
        if node.op_type == "Resize" and not _constant(node.input[2:3], skeleton):
            yield f"{describe_node(node)} has scales that are computed"


def _constant(names: Sequence[str], skeleton: Skeleton) -> bool:
    return all(name in skeleton.initializers for name in names if name)
