"""Building: what is warned of, what is refused, what a failure or Ctrl-C leaves."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from fusion_engine import ArtifactError, BackendError, FusionEngineError, NumericalError
from fusion_engine.artifact import file_sha256, read_spec, report_path
from fusion_engine.engine.tensorrt import build, builder, network_name, read_plan
from fusion_engine.engine.tensorrt.serialize import INPUT
from fusion_engine.engine.tensorrt.timing_cache import (
    load_timing_cache,
    save_timing_cache,
    timing_cache_path,
)
from fusion_engine.spec import METADATA_KEY

pytestmark = pytest.mark.rtx


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def files():
    return sorted(path.name for path in Path().iterdir())


def test_the_bytes_are_the_builder_s(cnn14_artifact, monkeypatch):
    built = []
    serialize = builder.serialize

    def spy(*args, **kwargs):
        result = serialize(*args, **kwargs)
        built.append(bytes(result.plan))
        return result

    monkeypatch.setattr(builder, "serialize", spy)
    build(cnn14_artifact, "a.plan", precision="fp32")
    assert Path("a.plan").read_bytes() == built[0]
    assert files() == ["a.plan", "a.plan.json"]


def test_activation_memory_follows_the_largest_input(cnn14_artifact):
    def bytes_for(batch, frames):
        options = {"batch": (1, 1, batch), "frames": (32, 32, frames)}
        return build(cnn14_artifact, "a.plan", precision="fp32", **options).sidecar.activation_bytes

    least = bytes_for(1, 320)
    # A map of the first convolution in FP32 at least.
    assert least >= 64 * 320 * 64 * 4
    assert bytes_for(4, 320) > 2 * least
    assert bytes_for(1, 1280) > 2 * least


def test_activation_memory_follows_the_shape_of_a_run(cnn14_artifact, monkeypatch, library):
    """By default in TensorRT for RTX, but not in TensorRT."""
    features = []
    config = library.module.IBuilderConfig
    monkeypatch.setattr(config, "set_preview_feature", lambda *set_to: features.append(set_to[1:]))
    build(cnn14_artifact, "a.plan", precision="fp32")
    assert features == [(library.module.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)]


def test_a_typed_graph_is_kept(cnn14_artifact):
    build(cnn14_artifact, "a.plan", precision="fp16", typed_onnx="typed.onnx")
    typed = onnx.load("typed.onnx")
    (output,) = typed.graph.output
    assert output.type.tensor_type.elem_type == TensorProto.FLOAT16
    assert read_spec("typed.onnx").precision == "fp16"
    with pytest.raises(ArtifactError, match="its precision is fp16; build from the fp32 artifact"):
        build("typed.onnx", "b.plan")
    assert files() == ["a.plan", "a.plan.json", "typed.onnx"]


def test_tf32_is_off_unless_it_is_asked_for(cnn14_artifact, monkeypatch, library):
    flags = []
    serialized = library.module.Builder.build_serialized_network

    def spy(self, network, config):
        flags.append(config.get_flag(library.module.BuilderFlag.TF32))
        return serialized(self, network, config)

    monkeypatch.setattr(library.module.Builder, "build_serialized_network", spy)
    for precision in ("fp32", "tf32", "bf16"):
        assert build(cnn14_artifact, "a.plan", precision=precision).spec.precision == precision
    assert flags == [False, True, False]


def test_what_the_builder_is_told(cnn14_artifact, monkeypatch, library):
    """The effort, and that the memory of a run is the caller's, as capturing graphs needs."""
    told = []
    serialized = library.module.Builder.build_serialized_network
    own_memory = library.module.BuilderFlag.REQUIRE_USER_ALLOCATION

    def spy(self, network, config):
        told.append((config.builder_optimization_level, config.get_flag(own_memory)))
        return serialized(self, network, config)

    monkeypatch.setattr(library.module.Builder, "build_serialized_network", spy)
    build(cnn14_artifact, "a.plan", precision="fp32")
    build(cnn14_artifact, "a.plan", precision="fp32", effort=0)
    assert told == [(3, True), (0, True)]


def test_a_name_that_tensorrt_drops(cnn14_artifact, monkeypatch):
    """It does so in silence."""
    model = onnx.load(cnn14_artifact)
    (entry,) = model.metadata_props
    spec = json.loads(entry.value)
    spec["weights"]["source"] = spec["layers"][0]["module"] = "é" * 1_000  # six bytes each in JSON
    entry.value = json.dumps(spec)
    onnx.save(model, "a.onnx")
    with pytest.raises(ArtifactError, match=r"the spec takes \d+ bytes, and a plan holds 4000"):
        build("a.onnx", "a.plan", precision="fp32")
    monkeypatch.setattr(network_name, "MAX_BYTES", 20_000)
    with pytest.raises(BackendError, match=r"did not take the spec as the network's name"):
        build("a.onnx", "a.plan", precision="fp32")
    assert files() == ["a.onnx"]


def with_activations(artifact, **activations):
    """The artifact here, with a report that says so."""
    Path("a.onnx").write_bytes(artifact.read_bytes())
    report = {"sha256": file_sha256("a.onnx"), "activations": activations}
    report_path("a.onnx").write_text(json.dumps(report))


def test_activations_that_fit(cnn14_artifact, caplog):
    with_activations(cnn14_artifact, conv1=10.0)
    build("a.onnx", "a.plan", precision="fp16")
    assert caplog.messages == []


def test_activations_near_the_end_of_fp16(cnn14_artifact, caplog):
    with_activations(cnn14_artifact, conv1=9e3)
    build("a.onnx", "a.plan", precision="fp16")
    assert "a.onnx: the largest |activation| of conv1 is 9000" in caplog.text
    assert "bf16" in caplog.text


def test_activations_beyond_fp16(cnn14_artifact):
    with_activations(cnn14_artifact, conv1=4e4)
    with pytest.raises(NumericalError, match=r"40000 at conv1.*Build with --precision bf16"):
        build("a.onnx", "a.plan", precision="fp16")
    assert files() == ["a.onnx", "a.onnx.json"]
    build("a.onnx", "a.plan", precision="bf16")


def test_activations_that_nobody_measured(cnn14_artifact, caplog):
    Path("a.onnx").write_bytes(cnn14_artifact.read_bytes())
    build("a.onnx", "a.plan", precision="bf16")
    assert caplog.messages == []
    build("a.onnx", "a.plan", precision="fp16")
    assert "no activation ranges were recorded at its export" in caplog.text


def artifact_of(nodes, initializers=()):
    """An artifact of CNN14's first block, so its spec says, with another graph."""
    shape = ["batch", 1, "frames", 64]
    outputs = ["batch", 64, "steps", 32]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("layer_1", TensorProto.FLOAT, outputs)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def node(kind, *inputs, **attributes):
    return helper.make_node(kind, [INPUT, *inputs], ["layer_1"], **attributes)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (artifact_of([node("DFT", axis=2)]), "cannot parse the graph: DFT "),
        (
            # 6400 values of an input that has 32·64 to 6001·64.
            artifact_of(
                [node("Reshape", "shape")],
                [helper.make_tensor("shape", TensorProto.INT64, [4], [1, 1, 100, 64])],
            ),
            "could not build the plan: ",
        ),
    ],
    ids=["parser", "builder"],
)
def test_a_failure_carries_tensorrt_s_own_words(cnn14_artifact, model, message):
    model.metadata_props.add(key=METADATA_KEY, value=read_spec(cnn14_artifact).to_json())
    onnx.save(model, "a.onnx")
    Path("a.plan").write_text("old")
    with pytest.raises(BackendError) as error:
        build("a.onnx", "a.plan", precision="fp32")
    text = str(error.value)
    assert text.startswith("a.onnx: tensorrt_rtx ")
    assert len(text.partition(message)[2]) > 40
    assert files() == ["a.onnx", "a.plan"]
    assert Path("a.plan").read_text() == "old"


def test_channels_that_are_no_multiple_of_8_stay_linear(cnn14_artifact):
    spec = read_spec(cnn14_artifact)
    layer = replace(spec.layers[0], channels=12)
    spec = replace(spec, layers=(layer,), embedding_dim=layer.dim)
    kernel = helper.make_tensor("kernel", TensorProto.FLOAT, [12, 1, 1, 1], [0.5] * 12)
    model = artifact_of([node("Conv", "kernel", strides=[2, 2])], [kernel])
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 12
    model.metadata_props.add(key=METADATA_KEY, value=spec.to_json())
    onnx.save(model, "a.onnx")
    _, output = build("a.onnx", "a.plan", precision="bf16").sidecar.tensors
    assert (output.shape, output.format) == ((-1, 12, -1, 32), "linear")


def test_an_output_of_another_type(cnn14_artifact):
    model = artifact_of([node("Cast", to=TensorProto.FLOAT16)])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.metadata_props.add(key=METADATA_KEY, value=read_spec(cnn14_artifact).to_json())
    onnx.save(model, "a.onnx")
    with pytest.raises(BackendError, match=r"layer_1 became DataType.HALF, expected float32"):
        build("a.onnx", "a.plan", precision="fp32")


def test_a_graph_that_is_not_the_spec_s(cnn14_artifact):
    model = onnx.load(cnn14_artifact)
    entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    entry.value = entry.value.replace('"number":1', '"number":2')
    onnx.save(model, "a.onnx")
    with pytest.raises(ArtifactError, match=r"outputs \['layer_1'\], its spec says .*'layer_2'"):
        build("a.onnx", "a.plan", precision="fp32")
    assert files() == ["a.onnx"]


@pytest.mark.parametrize(
    ("found", "damage"),
    [
        (b"conv_block1.conv1.weight", b"conv_block1.conv1.weighs"),
        (b"conv_block1.conv1.weight", b"conv_block1.conv1.\xffeight"),
        # [64, 1, 3, 3] of a weight, as a tensor begins.
        (b"\x08\x40\x08\x01\x08\x03\x08\x03", b"\x08\x40\x08\x01\x08\x03\x08\x02"),
    ],
    ids=["name", "no text", "size"],
)
def test_a_graph_that_is_damaged(cnn14_artifact, found, damage):
    data = cnn14_artifact.read_bytes()
    assert found in data
    Path("a.onnx").write_bytes(data.replace(found, damage, 1))
    with pytest.raises(ArtifactError, match=r"fusion-engine export"):
        build("a.onnx", "a.plan", precision="bf16")
    assert files() == ["a.onnx"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"precision": "int8"}, ValueError, "precision is 'int8', expected one of"),
        ({"effort": 6}, ValueError, "effort is 6, expected 0 to 5"),
        ({"runtime": "cuda"}, ValueError, "runtime is 'cuda', expected one of"),
        ({"plan": "a.engine"}, ValueError, "expected a name that ends in .plan"),
        ({"precision": "fp32", "typed_onnx": "t.onnx"}, ValueError, "has no typed graph"),
        ({"typed_onnx": "a.plan"}, ValueError, "'a.plan', expected a name that ends in .onnx"),
        ({"typed_onnx": "T.ONNX"}, ValueError, "'T.ONNX', expected a name that ends in .onnx"),
        ({"frames": (16, 32, 64)}, ValueError, "takes at least 32 frames"),
        ({"plan": "no/a.plan"}, FusionEngineError, "cannot write no/a.plan.json: No such file"),
        ({"onnx": "no.onnx"}, ArtifactError, "no such file"),
    ],
    ids=str,
)
def test_what_is_refused(cnn14_artifact, change, error, message):
    arguments = {"onnx": cnn14_artifact, "plan": "a.plan"} | change
    with pytest.raises(error, match=message):
        build(**arguments)
    assert files() == []


def test_ctrl_c_stops_the_builder_and_leaves_what_was_there(cnn14_artifact, library):
    Path("a.plan").write_text("old")
    interrupted = threading.Event()

    def press(phase, step, steps):
        if not interrupted.is_set():
            interrupted.set()
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)  # such a small build would end before the main thread wakes

    with library.listen() as heard, pytest.raises(KeyboardInterrupt):
        build(cnn14_artifact, "a.plan", precision="fp32", progress=press)
    assert any("BuildCanceled" in error for error in heard.errors)
    assert files() == ["a.plan"]
    assert Path("a.plan").read_text() == "old"
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("fusion_engine-build") for name in names)


def test_progress_is_told(cnn14_artifact):
    told = []
    build(cnn14_artifact, "a.plan", precision="fp32", progress=lambda *step: told.append(step))
    first, *_, last = told
    assert first[:2] == ("Building engine", 0)
    assert last == ("Building engine", first[2], first[2])
    assert all(0 <= step <= steps for _, step, steps in told)


def test_what_the_progress_raises_stops_the_build(cnn14_artifact, capfd):
    def fail(phase, step, steps):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        build(cnn14_artifact, "a.plan", precision="fp32", progress=fail)
    assert files() == []
    assert capfd.readouterr() == ("", "")


def test_a_crash_between_the_files_leaves_no_sidecar_that_lies(cnn14_artifact, monkeypatch):
    build(cnn14_artifact, "a.plan", precision="fp32")
    before = Path("a.plan").read_bytes()
    replaced, rename = [], Path.replace

    def crash(self, target):
        replaced.append(Path(target).name)
        if len(replaced) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        build(cnn14_artifact, "a.plan", precision="bf16")
    assert replaced == ["a.plan", "a.plan.json"]
    assert Path("a.plan").read_bytes() != before
    assert not Path("a.plan.json").exists()
    assert read_plan("a.plan").spec.precision == "bf16"


def test_an_artifact_that_is_written_anew_meanwhile(cnn14_artifact):
    Path("a.onnx").write_bytes(cnn14_artifact.read_bytes())

    def write(*_):
        Path("a.onnx").write_bytes(b"another")

    info = build("a.onnx", "a.plan", precision="fp32", progress=write)
    assert info.sidecar.source.sha256 == file_sha256(cnn14_artifact)


def test_an_old_plan_is_replaced_with_its_sidecar(cnn14_artifact):
    first = build(cnn14_artifact, "a.plan", precision="fp32")
    second = build(cnn14_artifact, "a.plan", precision="bf16")
    assert read_plan("a.plan") == second != first


def test_links_stay_links(cnn14_artifact):
    Path("store").mkdir()
    for name in ("a.plan", "a.plan.json"):
        Path(name).symlink_to(Path("store", name))
    for precision in ("fp32", "bf16"):
        info = build(cnn14_artifact, "a.plan", precision=precision)
        assert info.sidecar.spec.precision == precision
        assert Path("a.plan").is_symlink()
        assert Path("a.plan.json").is_symlink()
        assert read_plan("store/a.plan").sidecar == info.sidecar


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_the_timing_cache_is_kept(library, gpu, monkeypatch, tmp_path):
    """tensorrt_rtx has the calls and keeps nothing; what tensorrt keeps goes the same way."""
    monkeypatch.setenv("FUSION_ENGINE_CACHE", str(tmp_path / "cache"))
    path = timing_cache_path(replace(library, runtime="tensorrt", version="10.13.3.9"), gpu)
    assert path.name == "tensorrt-10-13-3-9-nvidia-h200.cache"
    config = library.module.Builder(library.logger).create_builder_config()
    load_timing_cache(config, path)
    save_timing_cache(config, path)
    kept = path.read_bytes()
    assert kept == bytes(memoryview(config.get_timing_cache().serialize()))
    load_timing_cache(config, path)


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_a_timing_cache_that_can_be_neither_read_nor_kept(library, caplog, tmp_path):
    (tmp_path / "cache").touch()
    config = library.module.Builder(library.logger).create_builder_config()
    load_timing_cache(config, tmp_path / "cache" / "timing" / "a.cache")
    assert "the timing cache is not read, and starts anew: [Errno 20]" in caplog.text
    save_timing_cache(config, tmp_path / "cache" / "timing" / "a.cache")
    assert "the timing cache was not kept" in caplog.text
