"""Models with random weights, their graphs, and what FP64 and torch's half precision give."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from fusion_engine.engine.precision import HalfPrecision, emulated_model, typed_model
from fusion_engine.export import Backbone, resolve
from fusion_engine.export.graph import backbone_module, trace_graph
from fusion_engine.export.verify import verification_inputs

from ...export.structure import spec_of

Arrays = list[NDArray[np.float32]]

TORCH_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
# Every layer; AST at the shortest length that has several patches in time.
LAYERS = {
    "cnn14": (1, 2, 3, 4, 5, 6, 7),
    "vggish": (2, 5, 8, 10, 13, 15, 18, 20, 22),
    "ast": tuple(range(1, 13)),
}
AST_FRAMES = 64


def run(model: onnx.ModelProto, log_mel: NDArray[np.float32]) -> Arrays:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"log_mel": log_mel})


def computed(typed: onnx.ModelProto, log_mel: NDArray[np.float32]) -> Arrays:
    """What a typed graph gives: each operator by itself in FP32, rounded where its type says so."""
    inferred = onnx.shape_inference.infer_shapes(typed, check_type=True, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.value_info}
    types |= {v.name: v.type.tensor_type.elem_type for v in inferred.output}
    values = {"log_mel": log_mel}
    for tensor in typed.graph.initializer:
        values[tensor.name] = widened(onnx.numpy_helper.to_array(tensor), tensor.data_type)
    for node in typed.graph.node:
        if node.op_type == "Cast":
            results = {node.output[0]: values[node.input[0]].astype(np.float32)}
        else:
            results = alone(node, {name: values[name] for name in node.input if name})
        values |= {name: widened(value, types[name]) for name, value in results.items()}
    return [values[output.name] for output in typed.graph.output]


def widened(values: NDArray[Any], kind: int) -> NDArray[Any]:
    """FP32 numbers of the type ``kind``, where that is a half precision."""
    if kind not in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
        return values
    with np.errstate(over="ignore"):
        return values.astype(onnx.helper.tensor_dtype_to_np_dtype(kind)).astype(np.float32)


def alone(node: onnx.NodeProto, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The node's outputs by name."""
    given = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in inputs.items()
    ]
    names = [name for name in node.output if name]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    graph = onnx.helper.make_graph([node], "alone", given, outputs)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return dict(zip(names, session.run(names, inputs), strict=True))


class Case:
    """One model: its exported graphs and the answers to compare with."""

    def __init__(self, name: str) -> None:
        model = resolve(name)
        if name == "ast":
            model = model.configured(frames=AST_FRAMES, token=None)
        state = model.random_state(0)
        self.backbone: Backbone = model.for_checkpoint(state)
        self.state = state
        self.layers: Sequence[int] = LAYERS[name]
        self.log_mel = verification_inputs(self.backbone)[-1]

    @functools.lru_cache(maxsize=4)  # noqa: B019  # lives as long as the package
    def graph(self, *layers: int) -> onnx.ModelProto:
        """The FP32 graph, as an export writes it."""
        folded = self.backbone.fold(self.backbone.check_state(self.state, layers))
        module = backbone_module(self.backbone, folded, layers)
        return trace_graph(module, spec_of(self.backbone, layers))

    def published(self, dtype: torch.dtype) -> Arrays:
        """All layers of the model as published, in torch, in one type throughout."""
        state = self.backbone.check_state(self.state, self.layers)
        with torch.inference_mode():
            outputs = self.backbone.reference(
                {name: tensor.to(dtype) for name, tensor in state.items()},
                torch.from_numpy(self.log_mel).to(dtype),
                self.layers,
            )
        return [output.double().numpy() for output in outputs]

    def emulated(self, precision: HalfPrecision) -> Arrays:
        return run(emulated_model(typed_model(self.graph(*self.layers), precision)), self.log_mel)


@pytest.fixture(scope="package")
def cases() -> Callable[[str], Case]:
    """The models by name, made when first asked for."""
    return functools.cache(Case)
