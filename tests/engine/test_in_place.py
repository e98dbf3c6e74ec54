"""Large weights left in the file: the same bits, less memory, and whatever else a file may be."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import fusion_engine as fe
from fusion_engine.engine.in_place import LEAST_BYTES, in_place
from fusion_engine.engine.onnx import OnnxSession
from fusion_engine.spec import METADATA_KEY, LayerSpec

from .cuda.artifacts import CHUNKED, write_artifact

SPEC = replace(
    CHUNKED,
    model="large",
    layers=(LayerSpec(number=3, kind="map", channels=2048, freq=16, time_pool=1),),
    embedding_dim=2048 * 16,
)
LOG_MEL = np.random.default_rng(1).normal(0, 1, (2, 1, 32, 64)).astype(np.float32)


def weights(channels, inputs, seed):
    values = np.random.default_rng(seed).random((channels, inputs, 3, 3), np.float32)
    values -= 0.5
    values *= 2 / (3 * inputs**0.5)
    return values


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An artifact of 151 MB: convolutions of 38, 38 and 76 MB, the last of which is cut in two."""
    first, second, third = weights(1024, 1, 0), weights(1024, 1024, 1), weights(2048, 1024, 2)
    between = weights(1024, 1024, 4)
    bias = np.random.default_rng(3).random(2048, np.float32)
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["log_mel", "w1"], ["c1"], **pads),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], **pads),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p2", "w4"], ["c4"], **pads),
        helper.make_node("Relu", ["c4"], ["r4"]),
        helper.make_node("Conv", ["r4", "w3", "b3"], ["c3"], **pads),
        helper.make_node("Relu", ["c3"], ["layer_3"]),
    ]
    tensors = {"w1": first, "w2": second, "w3": third, "b3": bias, "w4": between}
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["S", 1, "T", 64])],
        [helper.make_tensor_value_info("layer_3", TensorProto.FLOAT, ["S", 2048, None, 16])],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: SPEC.to_json()})
    path = tmp_path_factory.mktemp("large") / "large.onnx"
    onnx.save(model, path)
    return path


def session(path):
    return OnnxSession(path, providers=["CPUExecutionProvider"], threads=2)


def test_the_bits_are_those_of_the_whole_file(large):
    parts = in_place(large)
    assert len(parts.model) < 3 * LEAST_BYTES
    nodes = onnx.load_model_from_string(parts.model).graph.node
    assert [node.op_type for node in nodes].count("Conv") == 5
    (expected,) = onnxruntime.InferenceSession(large).run(None, {"log_mel": LOG_MEL})
    (got,) = session(large).session.run(None, {"log_mel": LOG_MEL})
    assert np.array_equal(got, expected)
    assert got.max() > 0.01


def test_external_data_is_cut_too(large, tmp_path):
    path = tmp_path / "external.onnx"
    onnx.save(onnx.load(large), path, save_as_external_data=True, location="weights.bin")
    nodes = onnx.load_model_from_string(in_place(path).model).graph.node
    assert [node.op_type for node in nodes].count("Conv") == 5
    (expected,) = onnxruntime.InferenceSession(large).run(None, {"log_mel": LOG_MEL})
    (got,) = session(path).session.run(None, {"log_mel": LOG_MEL})
    assert np.array_equal(got, expected)
    # Through a link the weights lie beside its target.
    link = tmp_path / "folder" / "link.onnx"
    link.parent.mkdir()
    link.symlink_to(path)
    (got,) = session(link).session.run(None, {"log_mel": LOG_MEL})
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("external", [False, True])
def test_opening_takes_less_than_2_2_times_the_file(large, tmp_path, external):
    """Peak resident memory of a fresh process, above what it had with its libraries loaded."""
    path = large
    if external:
        path = tmp_path / "external.onnx"
        onnx.save(onnx.load(large), path, save_as_external_data=True, location="weights.bin")
    program = r"""
import re, sys
from pathlib import Path
import numpy, onnx, onnxruntime
import fusion_engine as fe
fe.Engine
def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
before = peak()
engine = fe.Engine(sys.argv[1], device="cpu", threads=2)
print(peak() - before)
# Nothing of the file stays mapped, so that overwriting it changes nothing.
print(Path("/proc/self/maps").read_text().count(str(Path(sys.argv[1]).parent)))
"""
    command = [sys.executable, "-c", program, str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    taken, mapped = map(int, output.split())
    print(f"{taken / 1e6:.0f} MB for a file of {large.stat().st_size / 1e6:.0f} MB")
    assert taken < 2.2 * large.stat().st_size
    assert external or mapped == 0


def test_a_graph_that_shares_or_feeds_its_weights_is_not_cut(large, tmp_path):
    model = onnx.load(large)
    node = next(node for node in model.graph.node if node.output[0] == "c3")
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.output[0] = "unused"
    model.graph.node.append(twin)
    onnx.save(model, tmp_path / "shared.onnx")
    nodes = onnx.load_model_from_string(in_place(tmp_path / "shared.onnx").model).graph.node
    assert [node.op_type for node in nodes].count("Conv") == 5  # as they were: four and the twin
    assert not any(node.op_type == "Concat" for node in nodes)
    for name in ("w2", "w3", "w4"):
        dims = next(list(t.dims) for t in model.graph.initializer if t.name == name)
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    onnx.save(model, tmp_path / "fed.onnx")
    assert in_place(tmp_path / "fed.onnx") is None


def test_what_is_not_understood_is_left_to_the_library(large, tmp_path):
    small = write_artifact(tmp_path / "small.onnx", CHUNKED)
    assert in_place(small) is None  # nothing to gain
    data = small.read_bytes()
    for name, content in (
        ("empty", b""),
        ("text", b"hello"),
        ("zeros", bytes(1000)),
        ("cut", data[:-100]),
        ("endless", b"\x3a" + b"\xff" * 20),
    ):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        assert in_place(path) is None
        with pytest.raises(fe.ArtifactError, match="truncated or no ONNX file"):
            fe.Engine(path, device="cpu")
    assert in_place(tmp_path / "missing.onnx") is None


def test_weights_that_are_cut_off_are_an_artifact_error(large, tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(large.read_bytes()[:-50_000_000])
    with pytest.raises(fe.ArtifactError, match="truncated"):
        fe.Engine(path, device="cpu")
