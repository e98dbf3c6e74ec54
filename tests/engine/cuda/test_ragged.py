"""Masked plans on the double: a list of any lengths runs as few graphs, each clip as if alone."""

import numpy as np
import pytest

import fusion_engine as fe
from fusion_engine.engine.cut import bucket
from fusion_engine.engine.network_input import NetworkInput
from fusion_engine.engine.tensorrt import build, read_plan

from ..test_ragged import clips
from .artifacts import CHUNKED, RAGGED, write_artifact
from .test_arrays import on_gpu
from .test_runner import assert_close, noise, pcm

PLANS = [{}, {"dtype": "float16", "channels_last": True}, {"network_input": "float16"}]


@pytest.fixture
def path(tmp_path):
    return write_artifact(tmp_path / "ragged.onnx", RAGGED)


@pytest.fixture
def on_cpu(path):
    return fe.Engine(path, device="cpu")


@pytest.mark.parametrize("trt", PLANS, ids=["fp32", "fp16", "fp16-input"])
def test_two_hundred_clips_of_random_lengths(open_plan, path, on_cpu, trt):
    x = clips(200, 5.9)
    dtype = trt.get("dtype", "float32")
    if "network_input" in trt:
        dtype, trt = "float16", {"network_input": NetworkInput(dtype="float16")}
    expected = on_cpu.embed(x)
    with open_plan(path, trt=trt) as engine:
        for _ in range(3):
            got = engine.embed(x)
            assert_close(got, expected, dtype)
        alone = np.stack([engine.embed(clip) for clip in x[:40]])
        assert_close(got[:40], alone)
        stats = engine.stats
        frames = {max(32, 1 + len(clip) // 160) for clip in x}
        print(f"{len(frames)} lengths in {stats.graphs} graphs")
        assert len(frames) > 140
        assert stats.graphs <= stats.slots < 40 < len(frames)


def test_onnx_runtime_takes_it_too(machine, path, on_cpu):
    x = clips(30, 3.0)
    with fe.Engine(path, device="cuda") as engine:
        for _ in range(3):
            assert_close(engine.embed(x), on_cpu.embed(x))


def test_every_kind_of_audio(open_plan, path, on_cpu):
    """PCM, arrays in page-locked and in GPU memory, a long clip, frame features, layer outputs."""
    with open_plan(path) as engine:
        for seconds in (0.1, 0.75, 2.013):
            x = np.stack([noise(seconds, seed) for seed in range(3)])
            whole = engine.input(3, seconds)
            whole[:] = x
            for _ in range(3):
                assert_close(engine.embed(whole), on_cpu.embed(x))
                assert_close(engine.embed(on_gpu(x)).numpy(), on_cpu.embed(x))
                p = pcm(seconds)
                assert_close(engine.embed([p, p[:9_999]]), on_cpu.embed([p, p[:9_999]]))
        long = noise(20.0)
        assert_close(engine.embed(long), on_cpu.embed(long))
        assert_close(engine.embed_frames(long), on_cpu.embed_frames(long))
        for name, values in engine.layer_outputs(noise(1.0)).items():
            assert_close(values, on_cpu.layer_outputs(noise(1.0))[name])


def test_a_shape_serves_all_lengths_of_its_bucket(open_plan, path):
    with open_plan(path) as engine:
        for samples in (16_000, 17_000, 16_321, 17_759):
            assert bucket(1 + samples // 160) == 112
            for _ in range(2):
                engine.embed(noise(2.0)[:samples])
        assert engine.stats.graphs == engine.stats.slots == 1


@pytest.mark.rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("masked", [True, False], ids=["exported", "added"])
def test_a_plan_is_built(tmp_path, precision, masked):
    """Of an artifact that is masked, and of one to which the build adds it."""
    source = write_artifact(tmp_path / "a.onnx", RAGGED if masked else CHUNKED)
    plan = tmp_path / "ragged.plan"
    sizes = {"batch": (1, 2, 4), "frames": (32, 64, 128)}
    build(source, plan, precision=precision, effort=0, ragged=not masked, **sizes)
    info = read_plan(plan)
    assert info.rebuild_command.endswith("--ragged")
    log_mel, valid, *_ = info.sidecar.tensors
    assert info.spec.masked
    assert (valid.name, valid.shape, valid.dtype) == ("valid_frames", (-1,), "int32")
    half = {"fp16": "float16", "bf16": "bfloat16"}
    assert log_mel.dtype == info.input.dtype == half.get(precision, "float32")
