"""The PyTorch network against ONNX Runtime, and on the double as a part of the engine."""

import contextlib
import functools
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

import fusion_engine as fe
from fusion_engine.engine.cuda.cuda_network import TensorLayout
from fusion_engine.errors import ExportError
from fusion_engine.export import export, resolve
from fusion_engine.export.verify import verification_inputs

from .test_runner import noise, pcm
from .torch_double import HostTorchNetwork
from .torch_network import (
    CastAtConvolutions,
    DeviceArray,
    TorchContext,
    TorchNetwork,
    open_with_torch,
    write_weights,
)

# Of the largest value: DESIGN's for the same log-mel in FP32; the roundings of a few layers.
SAME_LOG_MEL = 5e-6
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2}
CLIPS = [noise(1.0, 1), noise(0.5, 2), pcm(1.0, 3), noise(1.0, 4), noise(0.7, 5)]


@pytest.fixture
def opened(machine, two_layers):
    """An engine on the double, on CNN14's first two blocks: ``opened("fp32", contexts=1)``."""
    network = functools.partial(HostTorchNetwork, machine)
    return functools.partial(open_with_torch, two_layers, network=network)


def differences(got, expected):
    return [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(got, expected, strict=True)]


def assert_gives_the_artifacts_values(path):
    network, session = TorchNetwork(path, "fp32", "cpu"), onnxruntime.InferenceSession(path)
    names = [layer.name for layer in network.spec.layers]
    for log_mel in verification_inputs(network.spec):
        outputs = network.forward(torch.from_numpy(log_mel))
        got = [x.numpy() for x in outputs]
        assert max(differences(got, session.run(names, {"log_mel": log_mel}))) <= SAME_LOG_MEL


def test_every_layer_is_onnx_runtimes(two_layers):
    assert_gives_the_artifacts_values(two_layers)


@pytest.mark.parametrize("report", ["cnn14_all", "vggish_all", "ast_second"])
def test_every_layer_of_every_model_is_onnx_runtimes(report, request):
    assert_gives_the_artifacts_values(request.getfixturevalue(report).path)


def test_maps_are_nhwc(two_layers):
    network = TorchNetwork(two_layers, "fp16", "cpu")
    for x in network.forward(torch.zeros(2, 1, 70, 64)):
        expected = TensorLayout.channels_last("float16", tuple(x.shape), 8)
        assert (x.dtype, x.stride()) == (torch.float16, expected.strides)
        assert x.numel() == expected.elements


def test_the_cast_follows_bn0(two_layers):
    """It tells levels apart that are one number in FP16."""
    network = TorchNetwork(two_layers, "fp16", "cpu")
    quiet, quieter = (torch.full((1, 1, 40, 64), level) for level in (-99.97, -100.0))
    assert torch.equal(quiet.half(), quieter.half())
    types = {name: tensor.dtype for name, tensor in network._tensors.items()}
    kept = {name for name, dtype in types.items() if dtype == torch.float32}
    assert kept == {"bn0.scale", "bn0.shift"}
    assert not torch.equal(network.forward(quiet)[0], network.forward(quieter)[0])


def test_a_convolution_takes_its_weights_type():
    x, weight = torch.ones(1, 1, 4, 4), torch.ones(2, 1, 3, 3, dtype=torch.float16)
    with CastAtConvolutions():
        assert torch.nn.functional.conv2d(x, weight, padding=1).dtype == torch.float16
        assert (x + 1).dtype == torch.float32


@pytest.mark.parametrize("precision", TOLERANCE)
def test_the_cpus_answers(precision, opened, two_layers):
    cpu = fe.Engine(two_layers, device="cpu")
    with opened(precision) as engine:
        assert engine.backend.startswith(f"pytorch-{precision} {torch.__version__} on ")
        assert (engine.spec.precision, engine.spec.space) == (precision, cpu.spec.space)
        for _ in range(3):
            (worst,) = differences([engine.embed(CLIPS)], [cpu.embed(CLIPS)])
            assert worst <= TOLERANCE[precision]
        long = noise(5.0)  # of more than the artifact's 2 s
        got = (
            engine.embed(long),
            engine.embed_frames(long),
            *engine.layer_outputs(CLIPS[0]).values(),
        )
        right = cpu.embed(long), cpu.embed_frames(long), *cpu.layer_outputs(CLIPS[0]).values()
        assert max(differences(got, right)) <= TOLERANCE[precision]


def test_a_graph_gives_the_bits_of_the_run_before(opened):
    with opened() as engine:
        first, other = engine.embed(CLIPS[0]), engine.embed(CLIPS[3])
        assert (engine.stats.graphs, engine.stats.uncaptured_runs) == (1, 1)
        for _ in range(2):
            assert np.array_equal(engine.embed(CLIPS[0]), first)
            assert np.array_equal(engine.embed(CLIPS[3]), other)
        assert engine.stats.uncaptured_runs == 1


def test_slots_that_make_room_are_captured_again(opened):
    """Room for one batch of one length at a time."""
    clips = [np.stack([noise(seconds, seed) for seed in range(3)]) for seconds in (0.5, 1.0)]
    with opened() as engine:
        alone = [engine.embed(x) for x in clips]
        most = engine.stats.device_bytes
    with opened(memory_limit=most * 3 // 4) as engine:
        for _ in range(2):
            for x, expected in zip(clips, alone, strict=True):
                before = engine.stats.uncaptured_runs
                for _ in range(3):
                    assert np.array_equal(engine.embed(x), expected)
                assert engine.stats.uncaptured_runs == before + 1
                assert engine.stats.graphs == engine.stats.slots == 1


def test_what_pytorch_raises_is_readable(opened, monkeypatch):
    with opened() as engine:
        expected = engine.embed(CLIPS[0])
        with monkeypatch.context() as patch:

            def full(*given, **named):
                raise torch.OutOfMemoryError("CUDA out of memory")

            patch.setattr(TorchNetwork, "forward", full)
            with pytest.raises(fe.BackendError, match=r"\[1, 1, 101, 64\]: CUDA out of memory"):
                engine.embed(CLIPS[0])
        assert np.array_equal(engine.embed(CLIPS[0]), expected)


def test_a_model_without_an_adapter_is_refused(artifact):
    with pytest.raises(ExportError, match="chunked"):
        TorchNetwork(artifact("chunked"), "fp32", "cpu")


def test_tensors_alone_are_those_of_an_export(tmp_path, monkeypatch):
    monkeypatch.setattr(type(resolve("cnn14")), "default_layers", (1,))
    export("cnn14", tmp_path / "whole.onnx", weights="random:0", seconds=2.0)
    write_weights(tmp_path / "tensors.onnx", "cnn14", seconds=2.0)
    models = [onnx.load(tmp_path / name) for name in ("whole.onnx", "tensors.onnx")]
    assert models[0].metadata_props == models[1].metadata_props
    whole, alone = ({x.name: numpy_helper.to_array(x) for x in m.graph.initializer} for m in models)
    assert all(np.array_equal(whole[name], value) for name, value in alone.items())
    layer, same = (
        TorchNetwork(tmp_path / name, "fp32", "cpu").forward(torch.ones(1, 1, 40, 64))[0]
        for name in ("whole.onnx", "tensors.onnx")
    )
    assert torch.equal(layer, same)


@pytest.fixture
def calls(monkeypatch):
    """What is asked of ``torch.cuda``, in order; captures while ``calls`` ends with "capture"."""
    made = []

    @contextlib.contextmanager
    def within(*given):
        made.append(given)
        yield
        made.append(("end", *given))

    for name, value in {
        "ExternalStream": lambda handle, device: f"stream {handle} of {device}",
        "stream": within,
        "device": lambda device: contextlib.nullcontext(),
        "is_current_stream_capturing": lambda: "capture" in made,
        "MemPool": lambda: made.append("new pool") or "pool",
        "use_mem_pool": within,
        "empty_cache": lambda: made.append("empty cache"),
    }.items():
        assert hasattr(torch.cuda, name)
        monkeypatch.setattr(torch.cuda, name, value)
    return made


def test_what_is_captured_has_a_pool_of_its_own(calls, two_layers, monkeypatch):
    """Warmed up by the thread that captures, before it does, and on the same stream."""
    network = TorchNetwork(two_layers, "fp32", "cpu")
    log_mel = torch.rand(1, 1, 40, 64)
    monkeypatch.setattr(TorchContext, "view", lambda self, address: log_mel)
    stream = SimpleNamespace(handle=7, synchronize=lambda: calls.append("synchronize"))
    context = network.context()
    assert context.prepare(1, 40, stream) == ()
    context.enqueue(log_mel.data_ptr(), stream)
    on, off = ("stream 7 of cpu",), ("end", "stream 7 of cpu")
    assert calls == [on, off]
    calls.clear()
    # Nothing is asked of CUDA but what the capture holds.
    monkeypatch.setattr(TorchContext, "view", lambda self, address: pytest.fail("looked up"))
    assert context.capturable(stream)
    assert calls == [on, off, "synchronize", "empty cache", "new pool"]
    calls[:] = ["capture"]
    layers = context.enqueue(log_mel.data_ptr(), stream)
    assert calls == ["capture", on, ("pool",), ("end", "pool"), off]
    # What the graph writes to stays, until the next shape.
    held = {x.data_ptr() for x in context._outputs}
    assert held == {layer.address for layer in layers}
    context.prepare(2, 40, stream)
    assert (context._outputs, context._pool) == ((), None)
    calls.clear()
    context.close()
    assert calls == ["empty cache"]


def test_the_array_interface_names_the_memory():
    array = DeviceArray(4096, (2, 1, 40, 64)).__cuda_array_interface__
    assert array == {
        "data": (4096, False),
        "shape": (2, 1, 40, 64),
        "typestr": np.dtype(np.float32).str,
        "version": 3,
    }
