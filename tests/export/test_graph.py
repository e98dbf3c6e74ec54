from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from fusion_engine.export.backbones import resolve
from fusion_engine.export.graph import backbone_module, trace_graph
from fusion_engine.frontend.frontend_spec import PANNS_16K
from fusion_engine.spec import Spec, WeightsSource

from ..exports import CNN14_LAYERS

pytestmark = pytest.mark.heavy

CHANNELS = (1, 64, 128, 256, 512, 1024, 2048)
ALL = list(CNN14_LAYERS)  # an export; the others are traced here
LAYERS = [[1], [2], [3], [4], [5], [6], [7], [5, 2], [7, 3], ALL]
FAST = [[1], [5, 2], [7, 3], ALL]

State = Mapping[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return resolve("cnn14").random_state(3)


def graph_of(state: State, layers: list[int]) -> onnx.ModelProto:
    model = resolve("cnn14")
    chosen = tuple(model.layers[number] for number in layers)
    spec = Spec(
        model=model.name,
        layers=chosen,
        embedding_dim=sum(layer.dim for layer in chosen),
        frontend=PANNS_16K,
        frames_per_step=model.frames_per_step(layers),
        min_frames=32,
        max_frames=6001,
        weights=WeightsSource(source="random:3", sha256="0" * 64),
    )
    tensors = model.fold(model.check_state(state, layers))
    return trace_graph(backbone_module(model, tensors, layers), spec)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(layers, marks=() if layers in FAST else pytest.mark.slow) for layers in LAYERS
    ],
    ids=str,
)
def built(request: pytest.FixtureRequest, state: State) -> tuple[list[int], onnx.ModelProto]:
    if request.param == ALL:
        return ALL, onnx.load(request.getfixturevalue("cnn14_all").path)
    return request.param, graph_of(state, request.param)


def test_nothing_after_the_last_block_needed(
    built: tuple[list[int], onnx.ModelProto],
) -> None:
    layers, model = built
    blocks = min(max(layers), 6)
    ops = Counter(Mul=1, Add=1, Conv=2 * blocks, Relu=2 * blocks, AveragePool=min(blocks, 5))
    # Scale and shift of 64 mel bins; two convolutions and biases a block.
    parameters = 2 * 64
    for before, after in pairwise(CHANNELS[: blocks + 1]):
        parameters += 9 * after * (before + after) + 2 * after
    axes = 0
    if 7 in layers:
        ops += Counter(ReduceMean=2, ReduceMax=1, Add=1, Gemm=1, Relu=1)
        parameters += 2048 * 2048 + 2048
        axes = 2  # mean over frequency; mean and max over time share theirs
    assert Counter(node.op_type for node in model.graph.node) == ops
    sizes = [onnx.numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer]
    assert sum(sizes) == 4 * parameters + 8 * axes


def test_interface(built: tuple[list[int], onnx.ModelProto]) -> None:
    layers, model = built

    def sizes(value: onnx.ValueInfoProto) -> list[str | int]:
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    (log_mel,) = model.graph.input
    assert (log_mel.name, sizes(log_mel)) == ("log_mel", ["batch", 1, "frames", 64])
    assert [value.name for value in model.graph.output] == [f"layer_{n}" for n in layers]
    for number, value in zip(layers, model.graph.output, strict=True):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        batch, channels, *rest = sizes(value)
        assert (batch, channels) == ("batch", CHANNELS[min(number, 6)])
        if number == 7:
            assert rest == []
        else:
            time, freq = rest
            assert freq == 64 >> min(number, 5)
            assert f"frames//{2 ** min(number, 5)}" in str(time)
    (opset,) = model.opset_import
    assert (opset.domain, opset.version) == ("", 18)
    assert model.producer_name == "fusion_engine"


def test_no_trace_of_the_tracing(built: tuple[list[int], onnx.ModelProto]) -> None:
    _, model = built
    assert [entry.key for entry in model.metadata_props] == ["fusion_engine"]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        tensor.ClearField("raw_data")
    text = copy.SerializeToString()
    for leftover in (str(Path.cwd()), str(Path.home()), ".py", "torch", "aten", "File ", "stack"):
        assert leftover.encode() not in text
    for item in [*copy.graph.node, *copy.graph.input, *copy.graph.output, *copy.graph.initializer]:
        assert not item.metadata_props
        assert not item.doc_string


def test_batch_norm_before_the_first_convolution_is_one_mul_and_one_add(state: State) -> None:
    nodes = graph_of(state, [1]).graph.node
    assert [node.op_type for node in nodes[:3]] == ["Mul", "Add", "Conv"]
    assert list(nodes[0].input) == ["log_mel", "bn0.scale"]
    assert nodes[1].input[1] == "bn0.shift"


def test_folded_parameters_keep_the_checkpoint_names(state: State) -> None:
    names = {tensor.name for tensor in graph_of(state, [2]).graph.initializer}
    convs = {
        f"conv_block{b}.conv{c}.{p}" for b in (1, 2) for c in (1, 2) for p in ("weight", "bias")
    }
    assert names == {"bn0.scale", "bn0.shift"} | convs


def test_strict_shape_inference_reaches_every_value(state: State) -> None:
    inferred = onnx.shape_inference.infer_shapes(
        graph_of(state, [3, 1]), check_type=True, strict_mode=True, data_prop=True
    ).graph
    shapes = {value.name: value.type.tensor_type.shape for value in inferred.value_info}
    inner = {name for node in inferred.node for name in node.output} - {"layer_1", "layer_3"}
    assert inner <= shapes.keys()
    assert all(len(shapes[name].dim) == 4 for name in inner)


def test_batch_and_frames_are_free(state: State) -> None:
    session = onnxruntime.InferenceSession(
        graph_of(state, [5]).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for batch, frames in [(1, 32), (1, 33), (4, 63), (2, 64), (1, 311)]:
        log_mel = np.full((batch, 1, frames, 64), -30.0, np.float32)
        (layer,) = session.run(None, {"log_mel": log_mel})
        assert layer.shape == (batch, 1024, frames // 32, 2)


def test_the_order_is_the_callers(state: State) -> None:
    outputs = [value.name for value in graph_of(state, [2, 3, 1]).graph.output]
    assert outputs == ["layer_2", "layer_3", "layer_1"]
