"""Repositories as Triton reads them: by its own protobuf, and through a double of its backend."""

import runpy
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

import fusion_engine as fe
from fusion_engine.engine.tensorrt import build
from fusion_engine.triton import write_repository

from .. import signals
from ..cli.in_process import invoke
from ..engine.cuda.artifacts import RAGGED, SPECS, write_artifact
from ..engine.cuda.double import GPU
from ..engine.cuda.engines import put_double_in_place
from ..engine.cuda.test_arrays import on_gpu
from ..engine.cuda.test_runner import assert_close
from . import utils_double
from .utils_double import InferenceRequest

RATE = 16_000
SPEC = SPECS["chunked"]


@pytest.fixture
def artifact(tmp_path):
    return write_artifact(tmp_path / "chunked.onnx", SPEC)


def config_of(model):
    """Parsed as the server does: a field that it does not know is an error."""
    text = (model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_the_model_from_samples_to_embeddings(artifact, tmp_path):
    (model,) = write_repository(artifact, tmp_path / "models", instances=2, max_batch=16)
    config = config_of(model)
    assert model == tmp_path / "models" / "chunked"
    assert (config.name, config.backend, config.max_batch_size) == ("chunked", "python", 16)
    (samples,), (embedding,) = config.input, config.output
    fp32 = model_config_pb2.TYPE_FP32
    assert (samples.name, samples.data_type, list(samples.dims)) == ("samples", fp32, [-1])
    assert samples.allow_ragged_batch
    assert (embedding.name, embedding.data_type) == ("embedding", fp32)
    assert list(embedding.dims) == [SPEC.embedding_dim]
    (group,) = config.instance_group
    assert (group.kind, group.count) == (model_config_pb2.ModelInstanceGroup.KIND_GPU, 2)
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert [(warm.batch_size, warm.count) for warm in config.model_warmup] == [(1, 2), (16, 2)]
    for warm in config.model_warmup:
        assert list(warm.inputs["samples"].dims) == [10 * RATE]
    assert config.parameters["artifact"].string_value == "chunked.onnx"
    assert config.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value == "no"
    assert (model / "1" / "chunked.onnx").read_bytes() == artifact.read_bytes()
    assert (model.stat().st_mode & 0o777) == 0o755


def test_choices(artifact, tmp_path):
    (model,) = write_repository(
        artifact, tmp_path, name="a.b-1", device="cpu", max_batch=1, max_delay=0, warmup=0
    )
    config = config_of(model)
    assert (model.name, config.name, config.max_batch_size) == ("a.b-1", "a.b-1", 1)
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert not config.model_warmup
    # A message that is there, though with nothing but defaults in it, turns batching on.
    assert config.HasField("dynamic_batching")


def started(model, monkeypatch, kind="CPU", device_id="0"):
    """The model as the backend starts it: its file is run, and its class made and initialised."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils_double)
    config = json_format.MessageToJson(config_of(model), preserving_proto_field_name=True)
    instance = runpy.run_path(str(model / "1" / "model.py"))["TritonPythonModel"]()
    instance.initialize(
        {
            "model_config": config,
            "model_instance_kind": kind,
            "model_instance_device_id": device_id,
            "model_instance_name": "chunked_0",
            "model_repository": str(model),
            "model_version": "1",
            "model_name": "chunked",
        }
    )
    return instance


def noise(*seconds):
    clips = [signals.noise(s, RATE, seed) for seed, s in enumerate(seconds)]
    return np.stack(clips).astype(np.float32)


def test_answers_are_the_engines(artifact, tmp_path, monkeypatch):
    """Of requests of several lengths and sizes at once, one of them longer than a run takes."""
    (model,) = write_repository(artifact, tmp_path / "models", device="cpu")
    requests = [noise(1.0), noise(0.5, 0.5, 0.5), noise(7.3), noise(1.0, 1.0)]
    instance = started(model, monkeypatch)
    responses = instance.execute([InferenceRequest(samples=x) for x in requests])
    instance.finalize()
    engine = fe.Engine(artifact, device="cpu")
    for samples, response in zip(requests, responses, strict=True):
        (tensor,) = response.output_tensors()
        assert (tensor.name(), tensor.as_numpy().dtype) == ("embedding", np.float32)
        np.testing.assert_array_equal(tensor.as_numpy(), engine.embed(samples))


def test_a_bad_request_takes_no_other_with_it(artifact, tmp_path, monkeypatch):
    (model,) = write_repository(artifact, tmp_path / "models", device="cpu")
    good, bad = noise(1.0), noise(1.0)
    bad[0, 5] = np.nan
    instance = started(model, monkeypatch)
    responses = instance.execute([InferenceRequest(samples=x) for x in (good, bad, good[:, :0])])
    assert [response.has_error() for response in responses] == [False, True, True]
    assert responses[1].error().code() == utils_double.TritonError.INVALID_ARG
    assert "nan" in responses[1].error().message().lower()
    assert "no samples" in responses[2].error().message()
    expected = fe.Engine(artifact, device="cpu").embed(good)
    np.testing.assert_array_equal(responses[0].output_tensors()[0].as_numpy(), expected)


def test_samples_in_gpu_memory_stay_there(artifact, tmp_path, monkeypatch):
    """On the double of a GPU, beside a request from the host."""
    put_double_in_place(monkeypatch)
    (model,) = write_repository(artifact, tmp_path / "models")
    instance = started(model, monkeypatch, kind="GPU", device_id=str(GPU.index))
    host, device = noise(1.0), noise(2.0, 2.0)
    requests = [InferenceRequest(samples=on_gpu(device)), InferenceRequest(samples=host)]
    on_device, on_host = (r.output_tensors()[0] for r in instance.execute(requests))
    assert (on_device.is_cpu(), on_host.is_cpu()) == (False, True)
    assert isinstance(on_device._array, fe.DeviceArray)
    engine = fe.Engine(artifact, device="cpu")
    assert_close(on_device._array.numpy(), engine.embed(device))
    assert_close(on_host.as_numpy(), engine.embed(host))
    instance.finalize()


def test_what_overflows_is_the_servers_fault(tmp_path, monkeypatch):
    artifact = write_artifact(tmp_path / "overflows.onnx", SPEC, bias=np.inf)
    (model,) = write_repository(artifact, tmp_path / "models", device="cpu")
    instance = started(model, monkeypatch)
    (response,) = instance.execute([InferenceRequest(samples=noise(1.0))])
    assert response.error().code() == utils_double.TritonError.INTERNAL
    assert "not finite" in response.error().message()


def test_the_network_alone(artifact, tmp_path):
    """ONNX Runtime runs what the configuration says, with log-mel of any length."""
    _, model = write_repository(artifact, tmp_path / "models", network=True, max_batch=4)
    config = config_of(model)
    assert (config.name, config.platform) == ("chunked_network", "onnxruntime_onnx")
    session = onnxruntime.InferenceSession(model / "1" / "model.onnx")
    (log_mel,) = config.input
    dims = [33 if size == -1 else size for size in log_mel.dims]
    assert dims == [1, 33, 64]
    outputs = session.run(
        None, {log_mel.name: np.zeros((config.max_batch_size, *dims), np.float32)}
    )
    for output, tensor in zip(outputs, config.output, strict=True):
        assert len(tensor.dims) == output.ndim - 1
        for size, dim in zip(output.shape[1:], tensor.dims, strict=True):
            assert dim in (-1, size)
    assert {path.name for path in (model / "1").iterdir()} == {"model.onnx"}


def test_the_frames_of_each_clip_are_one_number(tmp_path):
    """Of a masked network: [B] in the graph, [B, 1] in a request."""
    artifact = write_artifact(tmp_path / "ragged.onnx", RAGGED)
    _, model = write_repository(artifact, tmp_path / "models", network=True)
    log_mel, valid = config_of(model).input
    assert (log_mel.name, list(log_mel.dims)) == ("log_mel", [1, -1, 64])
    assert (valid.name, valid.data_type) == ("valid_frames", model_config_pb2.TYPE_INT32)
    assert (list(valid.dims), valid.HasField("reshape")) == ([1], True)
    assert not valid.reshape.shape


@pytest.mark.rtx
def test_the_network_of_a_plan(tmp_path, artifact):
    plan = tmp_path / "chunked.plan"
    options = {"precision": "bf16", "batch": (1, 2, 3), "frames": (40, 50, 60), "effort": 0}
    build(artifact, plan, **options)
    with pytest.raises(fe.ArtifactError, match="with --log-mel-input and --linear-outputs"):
        write_repository(plan, tmp_path / "models", network=True)
    build(artifact, plan, **options, log_mel_input=True, linear_outputs=True)
    engine, model = write_repository(plan, tmp_path / "models", network=True)
    config = config_of(model)
    assert (config.platform, config.max_batch_size) == ("tensorrt_plan", 3)
    assert config.input[0].data_type == model_config_pb2.TYPE_FP32
    assert {tensor.data_type for tensor in config.output} == {model_config_pb2.TYPE_BF16}
    assert [list(tensor.dims) for tensor in config.output] == [[16, -1, 32], [12, -1, 64]]
    names = {path.name for path in (engine / "1").iterdir()}
    assert names == {"model.py", "chunked.plan", "chunked.plan.json"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"name": ".hidden"}, "name is '.hidden'"),
        ({"instances": 0}, "instances is 0"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"warmup": -1.0}, "warmup is -1.0"),
    ],
)
def test_wrong_options(artifact, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_repository(artifact, tmp_path / "models", **options)
    assert not (tmp_path / "models").exists()


def test_nothing_is_replaced_and_nothing_half_written(artifact, tmp_path, monkeypatch):
    folder = tmp_path / "models"
    write_repository(artifact, folder)
    with pytest.raises(fe.FusionEngineError, match="chunked is there already"):
        write_repository(artifact, folder)
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(fe.FusionEngineError, match="free some space"):
        write_repository(artifact, folder, name="other")
    assert [path.name for path in folder.iterdir()] == ["chunked"]


def test_the_command(artifact, tmp_path):
    arguments = ["triton", artifact, "-o", tmp_path / "models", "--device", "cpu"]
    result = invoke(*arguments, "--network")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert names == ["chunked", "chunked_network"]
    assert invoke(*arguments, "--name", "a/b").exit_code == 2
