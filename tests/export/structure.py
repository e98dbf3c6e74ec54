"""What an exported graph holds."""

from collections.abc import Sequence

import onnx

from fusion_engine.export import Backbone
from fusion_engine.spec import Spec, WeightsSource


def spec_of(model: Backbone, layers: Sequence[int]) -> Spec:
    """The spec of ``model`` as it is, for graphs that are built and not exported."""
    chosen = tuple(model.layers[number] for number in layers)
    return Spec(
        model=model.name,
        layers=chosen,
        embedding_dim=sum(layer.dim for layer in chosen),
        frontend=model.frontend,
        frames_per_step=model.frames_per_step(layers),
        segment=model.segment,
        min_frames=model.min_frames,
        max_frames=model.max_frames,
        token=model.token,
        layer_norm_eps=model.layer_norm_eps,
        weights=WeightsSource(source="random:0", sha256="0" * 64),
    )


def parameter_bytes(model: onnx.ModelProto) -> tuple[int, int]:
    """Bytes of the parameters, which carry dotted names, and of the constants."""
    sizes = [0, 0]
    for tensor in model.graph.initializer:
        sizes["." not in tensor.name] += onnx.numpy_helper.to_array(tensor).nbytes
    return sizes[0], sizes[1]


def strictly_inferred(model: onnx.ModelProto) -> dict[str, list[str | int]]:
    """Sizes of every value by name, the model checked and its shapes inferred strictly."""
    onnx.checker.check_model(model)
    graph = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    ).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in values
    }
    assert {name for node in graph.node for name in node.output} <= shapes.keys()
    return shapes
