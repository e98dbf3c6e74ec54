"""Small artifacts with each way of cutting clips, written without an exporter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fusion_engine.engine.masking import mask_frames
from fusion_engine.frontend import FRONTENDS
from fusion_engine.spec import METADATA_KEY, LayerSpec, SegmentRule, Spec, WeightsSource

WEIGHTS = WeightsSource(source="random:0", sha256="0" * 64)

# A convolution with ReLU, a max-pool by 2, another convolution; channels 12 (not a multiple of 8)
# and 16. Reach 1 + 2 frames on each side.
CHUNKED = Spec(
    model="chunked",
    layers=(
        LayerSpec(number=2, kind="map", channels=16, freq=32, time_pool=2),
        LayerSpec(number=1, kind="map", channels=12, freq=64, time_pool=4),
    ),
    embedding_dim=16 * 32 + 12 * 64,
    frontend=FRONTENDS["panns_16k"],
    frames_per_step=4,
    chunk_margin=4,
    min_frames=32,
    max_frames=600,
    weights=WEIGHTS,
)
DROPPED = replace(
    CHUNKED,
    model="dropped",
    frontend=FRONTENDS["vggish"],
    chunk_margin=None,
    segment=SegmentRule(frames=96, last="drop"),
    min_frames=96,
    max_frames=96,
)
PADDED = replace(
    CHUNKED,
    model="padded",
    layers=(
        LayerSpec(number=5, kind="vector", channels=16),
        LayerSpec(number=3, kind="vector", channels=12),
    ),
    embedding_dim=28,
    frontend=FRONTENDS["ast"],
    chunk_margin=None,
    frames_per_step=None,
    segment=SegmentRule(frames=98, last="pad"),
    min_frames=98,
    max_frames=98,
)
RAGGED = replace(CHUNKED, model="ragged", masked=True)
SPECS = {spec.model: spec for spec in (CHUNKED, DROPPED, PADDED)}


def write_artifact(
    path: Path,
    spec: Spec,
    *,
    bias: float = 0.0,
    affine: NDArray[np.float32] | None = None,
) -> Path:
    """Convolution and ReLU to 12 channels, convolution to 16; ``bias=inf`` overflows the first.

    ``affine`` [2, n_mels] is a scale and an offset of each mel bin, before the first.
    """
    rng = np.random.default_rng(0)
    first = rng.normal(0, 0.02, (12, 1, 3, 3)).astype(np.float32)
    second = rng.normal(0, 0.1, (16, 12, 3, 3)).astype(np.float32)
    start = np.full(12, 0.1, np.float32)
    start[3] += bias
    low = np.zeros(16, np.float32)
    low[5] = -50.0  # its largest value is below zero
    names = {layer.channels: layer.name for layer in spec.layers}
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    halves = {"kernel_shape": [2, 2], "strides": [2, 2]}
    vectors = spec.layers[0].kind == "vector"
    map1, map2 = ("map1", "map2") if vectors else (names[12], names[16])
    first_input = "log_mel" if affine is None else "normalised"
    nodes = [
        helper.make_node("Conv", [first_input, "w1", "b1"], ["c1"], **pads),
        helper.make_node("Relu", ["c1"], [map1]),
        helper.make_node("MaxPool", [map1], ["p1"], **halves),
        helper.make_node("Conv", ["p1", "w2", "b2"], [map2], **pads),
    ]
    if vectors:
        nodes += [
            helper.make_node("ReduceMean", [source, "axes"], [names[size]], keepdims=0)
            for source, size in ((map1, 12), (map2, 16))
        ]
    if affine is not None:
        nodes = [
            helper.make_node("Mul", ["log_mel", "scales"], ["scaled"]),
            helper.make_node("Add", ["scaled", "offsets"], ["normalised"]),
            *nodes,
        ]
    frames = "T" if spec.segment is None else spec.segment.frames
    mels = spec.frontend.n_mels
    shapes = {12: ["S", 12], 16: ["S", 16]}
    if not vectors:
        shapes = {12: ["S", 12, None, mels], 16: ["S", 16, None, mels // 2]}
    graph = helper.make_graph(
        nodes,
        spec.model,
        [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["S", 1, frames, mels])],
        [
            helper.make_tensor_value_info(layer.name, TensorProto.FLOAT, shapes[layer.channels])
            for layer in spec.layers
        ],
        [
            numpy_helper.from_array(first, "w1"),
            numpy_helper.from_array(start, "b1"),
            numpy_helper.from_array(second, "w2"),
            numpy_helper.from_array(low, "b2"),
            *(
                numpy_helper.from_array(values, name)
                for name, values in zip(
                    ("scales", "offsets"), () if affine is None else affine, strict=False
                )
            ),
            *([numpy_helper.from_array(np.array([2, 3]), "axes")] if vectors else []),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if spec.masked:
        mask_frames(model)
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.save(model, path)
    return path
