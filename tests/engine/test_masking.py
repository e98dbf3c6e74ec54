"""Masked graphs against unmasked ones, which see each clip alone; by ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from fusion_engine.engine.masking import mask_frames
from fusion_engine.engine.network import INPUT, VALID_FRAMES
from fusion_engine.errors import ExportError
from fusion_engine.export import export
from fusion_engine.spec import METADATA_KEY, Spec

MELS = 8
CONV = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
HALVES = {"kernel_shape": [2, 2], "strides": [2, 2]}


def graph(*operations, last="layer_1"):
    """Operators with their attributes, each on what the one before gave."""
    rng = np.random.default_rng(0)
    nodes, weights, value, channels = [], [], INPUT, 1
    for index, (kind, attributes) in enumerate(operations):
        inputs, output = [value], last if index == len(operations) - 1 else f"v{index}"
        if kind == "Conv":
            shape = (4, channels, *attributes["kernel_shape"])
            name, channels = f"w{index}", 4
            values = rng.normal(0, 0.3, shape).astype(np.float32)
            weights.append(numpy_helper.from_array(values, name))
            inputs.append(name)
        if kind in ("Add", "Mul"):
            weights.append(numpy_helper.from_array(np.float32(0.7), f"c{index}"))
            inputs.append(f"c{index}")
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        value = output
    shape = ["batch", 1, "frames", MELS]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "network",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", 4, None, None])],
            weights,
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


NETWORKS = {
    "one": [("Conv", CONV)],
    "deep": [
        ("Mul", {}),
        ("Add", {}),
        ("Conv", CONV),
        ("Relu", {}),
        ("Conv", CONV),
        ("Sigmoid", {}),
        ("AveragePool", HALVES),
        ("Conv", CONV),
        ("Relu", {}),
        ("MaxPool", {"kernel_shape": [3, 1], "strides": [3, 1]}),
        ("Conv", {"kernel_shape": [5, 3], "pads": [4, 1, 4, 1], "dilations": [2, 1]}),
    ],
    "one-sided": [("Conv", {"kernel_shape": [4, 1], "pads": [3, 0, 0, 0]}), ("Conv", CONV)],
    "pointwise": [("Conv", {"kernel_shape": [1, 3], "pads": [0, 1, 0, 1]}), ("Relu", {})],
}
LEVELS = {"deep": 6}


def run(model, **feed):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, feed)[0]


def garbage_after(log_mel, lengths):
    rng = np.random.default_rng(1)
    for row, length in zip(log_mel, lengths, strict=True):
        row[:, length:] = rng.normal(0, 1e3, row[:, length:].shape)
    return log_mel


@pytest.mark.parametrize("name", NETWORKS)
def test_each_clip_has_the_answer_that_it_has_alone(name):
    plain, masked = graph(*NETWORKS[name]), graph(*NETWORKS[name])
    mask_frames(masked)
    onnx.checker.check_model(masked, full_check=True)
    lengths = np.array([41, 12, 13, 37, 24, 30, 29], np.int32)
    rng = np.random.default_rng(2)
    log_mel = garbage_after(rng.normal(0, 1, (7, 1, 41, MELS)).astype(np.float32), lengths)
    got = run(masked, log_mel=log_mel, valid_frames=lengths)
    for row, length in enumerate(lengths):
        expected = run(plain, log_mel=log_mel[row : row + 1, :, :length])
        assert expected.shape[2] == length // LEVELS.get(name, 1)
        worst = np.abs(got[row : row + 1, :, : expected.shape[2]] - expected).max()
        assert worst <= 1e-6 * np.abs(expected).max()


def test_there_is_no_more_of_a_mask_than_is_needed():
    """None before what sees one frame at a time, one for each value, and one range for a level."""
    counts = {}
    for name, operations in NETWORKS.items():
        model = graph(*operations)
        mask_frames(model)
        kinds = [node.op_type for node in model.graph.node]
        counts[name] = kinds.count("Where"), kinds.count("Range")
    assert counts == {"one": (1, 1), "deep": (4, 3), "one-sided": (2, 1), "pointwise": (0, 0)}


@pytest.mark.parametrize(
    "operation",
    [
        ("Conv", {"kernel_shape": [3, 3], "pads": [0, 1, 0, 1]}),
        ("Conv", {**CONV, "strides": [2, 2]}),
        ("Conv", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2]}),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}),
        ("AveragePool", {**HALVES, "ceil_mode": 1}),
        ("ReduceMean", {}),
        ("Softmax", {"axis": 2}),
        ("Transpose", {"perm": [0, 1, 3, 2]}),
    ],
    ids=lambda value: value[0],
)
def test_what_cannot_be_masked_is_refused(operation):
    with pytest.raises(ExportError, match=rf"its {operation[0]} that gives v1 is no convolution"):
        mask_frames(graph(("Conv", CONV), operation, ("Conv", CONV)))


@pytest.fixture(scope="module")
def cnn14(tmp_path_factory):
    path = tmp_path_factory.mktemp("ragged") / "cnn14.onnx"
    report = export("cnn14", path, layers=[2, 1], weights="random:0", ragged=True, seconds=5)
    assert report.spec.masked
    return path


def test_cnn14(cnn14):
    """As exported, whose check against PyTorch in FP64 has a shorter clip in a batch."""
    model = onnx.load(cnn14)
    assert [value.name for value in model.graph.input] == [INPUT, VALID_FRAMES]
    assert Spec.from_json({p.key: p.value for p in model.metadata_props}[METADATA_KEY]).masked
    assert [node.op_type for node in model.graph.node].count("Where") == 4


@pytest.mark.parametrize("fault", ["a mask is missing", "lengths are rounded up", "one frame late"])
def test_the_check_at_export_finds_a_fault(fault, tmp_path, monkeypatch):
    def faulty(model):
        mask_frames(model)
        nodes = {node.output[0]: node for node in model.graph.node}
        masked = [node for node in model.graph.node if node.op_type == "Where"]
        if fault == "a mask is missing":
            reader = next(n for n in model.graph.node if masked[2].output[0] in n.input)
            reader.input[0] = masked[2].input[1]
        elif fault == "lengths are rounded up":
            for tensor in model.graph.initializer:
                if tensor.name == "mask.level_2":
                    tensor.CopyFrom(numpy_helper.from_array(np.int32(1), tensor.name))
        else:
            nodes["mask.1"].op_type = "LessOrEqual"

    monkeypatch.setattr("fusion_engine.export.graph.mask_frames", faulty)
    with pytest.raises(ExportError, match="does not give the model's values: layer_2 is off by"):
        export("cnn14", tmp_path / "a.onnx", layers=[2], weights="random:0", ragged=True, seconds=5)


@pytest.mark.parametrize(
    ("model", "layers", "message"),
    [
        ("vggish", [10], "takes segments of 96 frames, so that clips of any lengths share a batch"),
        ("ast", [1], "takes segments of 1024 frames"),
        ("cnn14", [7], "layer_7 pools over the whole clip inside the graph"),
    ],
)
def test_models_without_use_for_it(model, layers, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(model, tmp_path / "a.onnx", layers=layers, weights="random:0", ragged=True)
    assert not list(tmp_path.iterdir())
