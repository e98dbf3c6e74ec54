"""What the typed graph and its emulation hold."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from fusion_engine import ArtifactError, NumericalError, Spec
from fusion_engine.engine.precision import HalfPrecision, emulated_model, typed_model
from fusion_engine.export.backbones.ast import Ast
from fusion_engine.spec import METADATA_KEY

from ...export.structure import spec_of
from .conftest import Case, run

TYPES = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
SMALL = [("cnn14", (1,)), ("vggish", (2, 5)), ("ast", (1, 2))]
# What stays in FP32, by the end of its name.
FP32 = ("bn0.scale", "bn0.shift", "norm.weight", "norm.bias", "norm1.weight", "norm1.bias")
FP32 += ("norm2.weight", "norm2.bias")

both = pytest.mark.parametrize("precision", ["fp16", "bf16"])


def graph_of(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    """A model of log-mel [B, 1, T, 4] whose output ``layer_1`` is [B, 1, T, 4], with a spec."""
    shape = ["batch", 1, "frames", 4]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("layer_1", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    spec = spec_of(Ast(), (1,)).to_json()
    model.metadata_props.add(key=METADATA_KEY, value=spec)
    return model


def spec_in(model: onnx.ModelProto) -> Spec:
    (entry,) = model.metadata_props
    return Spec.from_json(entry.value)


def weights_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


@both
@pytest.mark.parametrize(("name", "layers"), SMALL)
def test_both_graphs_are_valid_and_say_what_they_are(
    cases: Callable[[str], Case], name: str, layers: tuple[int, ...], precision: HalfPrecision
) -> None:
    model = cases(name).graph(*layers)
    before = hashlib.sha256(model.SerializeToString(deterministic=True)).digest()
    for made, output in (
        (typed_model(model, precision), LOW[precision]),
        (emulated_model(typed_model(model, precision)), TensorProto.FLOAT),
    ):
        onnx.checker.check_model(made, full_check=True)
        assert spec_in(made).precision == precision
        (log_mel,) = made.graph.input
        assert log_mel.type.tensor_type.elem_type == TensorProto.FLOAT
        assert [value.name for value in made.graph.output] == [f"layer_{n}" for n in layers]
        assert {v.type.tensor_type.elem_type for v in made.graph.output} == {output}
    assert hashlib.sha256(model.SerializeToString(deterministic=True)).digest() == before


@both
@pytest.mark.parametrize(("name", "layers"), SMALL)
def test_every_weight_is_rounded_to_nearest(
    cases: Callable[[str], Case], name: str, layers: tuple[int, ...], precision: HalfPrecision
) -> None:
    model = cases(name).graph(*layers)
    typed = weights_of(typed_model(model, precision))
    emulated = weights_of(emulated_model(typed_model(model, precision)))
    parameters = {n: t for n, t in weights_of(model).items() if "." in n or n == "positions"}
    assert parameters.keys() <= typed.keys()
    assert typed.keys() == emulated.keys()
    for key, tensor in parameters.items():
        values = numpy_helper.to_array(tensor)
        if key.endswith(FP32):
            assert typed[key] == emulated[key] == tensor
            continue
        rounded = values.astype(TYPES[precision])
        assert typed[key].data_type == LOW[precision]
        assert typed[key].raw_data == rounded.tobytes(), key
        assert np.array_equal(numpy_helper.to_array(emulated[key]), rounded.astype(np.float32))


@both
@pytest.mark.parametrize(("name", "layers"), SMALL)
def test_every_node_has_inputs_of_one_type(
    cases: Callable[[str], Case], name: str, layers: tuple[int, ...], precision: HalfPrecision
) -> None:
    """FP32 is where a rule says so, and nowhere else."""
    model = typed_model(cases(name).graph(*layers), precision)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    types = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        types[value.name] = value.type.tensor_type.elem_type
    fp32 = set()
    for node in inferred.node:
        kinds = {types[n] for n in node.input} & {TensorProto.FLOAT, LOW[precision]}
        assert len(kinds) <= 1, node.op_type
        if node.op_type != "Cast" and kinds == {TensorProto.FLOAT}:
            fp32.add(node.op_type)
    expected = {
        "cnn14": {"Mul", "Add"},
        "vggish": set(),
        "ast": {"Transpose", "LayerNormalization", "ReduceMean"},
    }
    assert fp32 == expected[name]


def test_bn0_comes_before_the_cast(cases: Callable[[str], Case]) -> None:
    nodes = typed_model(cases("cnn14").graph(1), "fp16").graph.node
    assert [node.op_type for node in nodes[:4]] == ["Mul", "Add", "Cast", "Conv"]


def test_one_cast_serves_all_who_read_a_value(cases: Callable[[str], Case]) -> None:
    nodes = typed_model(cases("ast").graph(1, 2), "fp16").graph.node
    casts = [(tuple(n.input), n.attribute[0].i) for n in nodes if n.op_type == "Cast"]
    assert len(casts) == len(set(casts))
    # Input; around six LayerNorms, two of which read the same tokens; around two means.
    assert len(casts) <= 1 + 2 * 6 + 2 * 2


@both
def test_the_smallest_epsilon_survives(precision: HalfPrecision) -> None:
    """A constant row has no variance: without 1e-12 it would be 0/0."""
    names = ["rectified", "scale", "bias"]
    model = graph_of(
        [
            relu(target="rectified"),
            helper.make_node("LayerNormalization", names, ["layer_1"], epsilon=1e-12),
        ],
        scale=np.full(4, 0.3, np.float32),
        bias=np.full(4, 0.1, np.float32),
    )
    log_mel = np.full((1, 1, 2, 4), 3.0, np.float32)
    log_mel[0, 0, 1] += 1e-2 * np.arange(4)
    (got,) = run(emulated_model(typed_model(model, precision)), log_mel)
    (want,) = run(model, log_mel.astype(TYPES[precision]).astype(np.float32))
    assert np.array_equal(got, want.astype(TYPES[precision]).astype(np.float32))
    (node,) = (
        n for n in typed_model(model, precision).graph.node if n.op_type == "LayerNormalization"
    )
    (epsilon,) = (a.f for a in node.attribute if a.name == "epsilon")
    assert epsilon == np.float32(1e-12)


@both
def test_the_optimiser_keeps_every_cast(
    cases: Callable[[str], Case], precision: HalfPrecision, tmp_path: Path
) -> None:
    model = emulated_model(typed_model(cases("ast").graph(1, 2), precision))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that the optimised graph is for this machine
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    optimised = onnx.load(tmp_path / "optimised.onnx")
    kept, written = (
        sum(node.op_type == "Cast" for node in m.graph.node) for m in (optimised, model)
    )
    assert kept == written > 50


@both
def test_casts_round_as_ml_dtypes_and_overflow(precision: HalfPrecision) -> None:
    model = emulated_model(
        typed_model(graph_of([helper.make_node("Relu", ["log_mel"], ["layer_1"])]), precision)
    )
    bits = np.random.default_rng(0).integers(0, 2**31, 40_000, dtype=np.uint32)
    bits[:10_000] = bits[:10_000] & 0xFFFF0000 | 0x8000
    bits[10_000:20_000] = bits[10_000:20_000] & 0xFFFFE000 | 0x1000
    values = bits.view(np.float32)
    values = np.where(np.isnan(values), np.float32(3.4e38), values).reshape(1, 1, -1, 4)
    (got,) = run(model, values)
    with np.errstate(over="ignore"):
        want = values.astype(TYPES[precision]).astype(np.float32)
    assert np.isinf(want).any()
    assert np.array_equal(got, want)


def test_constants_of_another_tool() -> None:
    """Weights that became nodes: FP32 with the values that they had."""
    nodes = [relu(target="a"), helper.make_node("Add", ["a", "shift"], ["layer_1"])]
    typed = typed_model(graph_of(nodes, shift=np.array(0.1, np.float32)), "fp16")
    (shift,) = typed.graph.initializer
    constant = helper.make_node("Constant", [], ["shift"], value=shift)
    rest = [constant, *typed.graph.node]
    del typed.graph.node[:], typed.graph.initializer[:]
    typed.graph.node.extend(rest)
    (got,) = run(emulated_model(typed), np.ones((1, 1, 1, 4), np.float32))
    assert np.array_equal(got, np.full_like(got, np.float16(1) + np.float16(0.1)))


def test_a_file_is_as_good(cases: Callable[[str], Case], tmp_path: Path) -> None:
    case = cases("cnn14")
    model = emulated_model(typed_model(case.graph(1), "fp16"))
    onnx.save(model, tmp_path / "emulated.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "emulated.onnx", providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(None, {"log_mel": case.log_mel})
    assert np.array_equal(got, run(model, case.log_mel)[0])


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_the_other_precisions_change_the_spec_alone(
    cases: Callable[[str], Case], precision: str
) -> None:
    model = cases("cnn14").graph(1)
    made = typed_model(model, precision)
    assert spec_in(made).precision == precision
    assert made.graph == model.graph
    assert spec_in(model).precision == "fp32"


def relu(source: str = "log_mel", target: str = "layer_1") -> onnx.NodeProto:
    return helper.make_node("Relu", [source], [target])


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            [helper.make_node("Hardmax", ["log_mel"], ["a"]), relu("a")],
            r"Hardmax \(on log_mel\) is an op",
        ),
        (
            [helper.make_node("Gelu", ["log_mel"], ["a"], domain="com.microsoft"), relu("a")],
            r"cannot infer the types of the graph.*com\.microsoft",
        ),
        (
            [
                helper.make_node("Cast", ["log_mel"], ["a"], to=TensorProto.DOUBLE),
                helper.make_node("Cast", ["a"], ["layer_1"], to=TensorProto.FLOAT),
            ],
            "values of type DOUBLE",
        ),
    ],
)
def test_a_graph_that_no_rule_covers(nodes: list[onnx.NodeProto], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        typed_model(graph_of(nodes), "fp16")


@pytest.mark.parametrize(
    ("value", "precision", "message"),
    [
        (1e5, "fp16", r"fp16 cannot hold these weights: block\.weight \(1e\+05\).*bf16 or fp32"),
        (3.4e38, "bf16", r"bf16 cannot hold these weights: block\.weight \(3.4e\+38\).*fp32"),
        (1e-12, "fp16", r"fp16 cannot hold these weights: block\.weight \(1e-12\)"),
    ],
)
def test_weights_beyond_the_range(value: float, precision: HalfPrecision, message: str) -> None:
    nodes = [relu(target="a"), helper.make_node("Mul", ["a", "block.weight"], ["layer_1"])]
    model = graph_of(nodes, **{"block.weight": np.array(value, np.float32)})
    with pytest.raises(NumericalError, match=message):
        typed_model(model, precision)


def test_a_weight_read_in_both_precisions_is_there_twice() -> None:
    nodes = [
        helper.make_node("Mul", ["log_mel", "scale"], ["a"]),
        relu("a", "b"),
        helper.make_node("Mul", ["b", "scale"], ["layer_1"]),
    ]
    scale = np.full(4, 0.1, np.float32)
    typed = typed_model(graph_of(nodes, scale=scale), "fp16")
    onnx.checker.check_model(typed, full_check=True)
    arrays = {name: numpy_helper.to_array(t) for name, t in weights_of(typed).items()}
    assert np.array_equal(arrays["scale"], scale.astype(np.float16))
    assert np.array_equal(arrays["scale.fp32"], scale)


def test_what_is_no_fp32_artifact() -> None:
    model = graph_of([relu()])
    with pytest.raises(ArtifactError, match="is fp16 already"):
        typed_model(typed_model(model, "fp16"), "fp16")
    with pytest.raises(ValueError, match="'fp8'"):
        typed_model(model, "fp8")  # type: ignore[arg-type]
    (entry,) = model.metadata_props
    assert json.loads(entry.value)["precision"] == "fp32"
    del model.metadata_props[:]
    with pytest.raises(ArtifactError, match="no 'fusion_engine' entry"):
        typed_model(model, "fp16")
