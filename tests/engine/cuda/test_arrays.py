"""Arrays in device memory, in and out, on the double: protocols, streams, lifetimes, errors."""

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch

import fusion_engine as fe
from fusion_engine.engine.cuda import dlpack
from fusion_engine.engine.cuda.arrays import is_on_gpu
from fusion_engine.engine.cuda.driver import OutOfMemory

from .double import HostCuda
from .test_runner import assert_close, noise, pcm

PRODUCER = 0x77


class OnGpu:
    """A host tensor that says it is on a GPU; remembers the stream that it was asked for."""

    def __init__(self, tensor, device=0):
        self.tensor, self.device, self.asked = tensor, device, []

    def __dlpack_device__(self):
        return dlpack.CUDA, self.device

    def __dlpack__(self, *, stream):
        self.asked.append(stream)
        return self.tensor.__dlpack__()


class OfTheInterfaceAlone:
    """As torch does: no such attribute on an array of the host."""

    @property
    def __cuda_array_interface__(self):
        raise AttributeError


class Interface:
    """The same by the CUDA array interface."""

    def __init__(self, array, **changes):
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, True),
            "strides": None if array.flags.c_contiguous else array.strides,
            "version": 3,
            **changes,
        }


def on_gpu(array):
    return OnGpu(torch.from_numpy(array))


@pytest.fixture
def engine(open_plan):
    with open_plan("chunked") as engine:
        yield engine


@pytest.mark.parametrize("wrap", [on_gpu, Interface])
@pytest.mark.parametrize("make", [noise, pcm])
def test_one_clip_and_batches(engine, wrap, make):
    x = make(1.0, 1)[:-3]
    batch = np.stack([make(1.0, seed) for seed in range(3)])[:, :-3]
    for _ in range(3):
        one, many = engine.embed(wrap(x)), engine.embed(wrap(batch))
        assert (one.shape, many.shape) == ((1280,), (3, 1280))
        assert_close(one.numpy(), engine.embed(x))
        assert_close(many.numpy(), engine.embed(batch))
    assert engine.stats.clips == 3 * 2 * (1 + 3)


@pytest.mark.parametrize("name", ["dropped", "padded"])
def test_segments(name, open_plan):
    with open_plan(name) as engine:
        for seconds in (0.01, 1.0, 2.4):
            x = noise(seconds)
            assert_close(engine.embed(on_gpu(x)).numpy(), engine.embed(x))


def test_long_clips_and_large_batches(open_plan):
    profiles = [((1, 1, 32, 64), (2, 1, 100, 64), (3, 1, 300, 64))]
    batch = np.stack([noise(9.0, seed) for seed in range(2)])
    small = np.stack([noise(0.5, seed) for seed in range(8)])
    with open_plan("chunked", trt={"profiles": profiles}) as engine:
        for clips in (batch, small, noise(0.01)):
            assert_close(engine.embed(on_gpu(clips)).numpy(), engine.embed(clips))


def test_rows_and_offsets(engine):
    """A view of a larger tensor: rows apart, and beginning inside."""
    room = torch.zeros(4, 20_000)
    room[1:3, 5:16_005] = torch.from_numpy(np.stack([noise(1.0, 1), noise(1.0, 2)]))
    part = room[1:3, 5:16_005]
    expected = engine.embed(part.contiguous())
    assert_close(engine.embed(OnGpu(part)).numpy(), expected)
    assert_close(engine.embed(Interface(part.numpy())).numpy(), expected)


@pytest.fixture
def copies(monkeypatch):
    """Sizes in bytes of what is copied on the device."""
    sizes, copy = [], HostCuda.copy

    def note(self, target, source, size, stream):
        sizes.append(size)
        copy(self, target, source, size, stream)

    monkeypatch.setattr(HostCuda, "copy", note)
    return sizes


def test_arrays_are_read_where_they_are(engine, copies):
    room = torch.zeros(4, 20_001)
    room[:3] = torch.from_numpy(np.stack([noise(1.3, seed)[:20_001] for seed in range(3)]))
    flat = room.reshape(-1)
    for tensor in (
        room[0],
        room[:3, 1:16_001],  # rows apart, and beginning inside
        room[1:2].expand(1, -1),
        torch.as_strided(flat, (1, 16_000), (0, 1)),
    ):
        engine.embed(OnGpu(tensor))
        copies.clear()
        for _ in range(2):  # recorded, and from the record
            result = engine.embed(OnGpu(tensor))
        size = result.numpy().nbytes
        clips = size // 1280 // 4
        assert sorted(copies[:4]) == sorted(2 * [size, 4 * clips])  # embeddings and flags, twice
        assert_close(result.numpy(), engine.embed(tensor.contiguous().numpy()))


def test_rows_that_overlap_are_copied(engine, copies, machine):
    """A sliding window, one clip many times, and samples at odd addresses."""
    long, x = noise(2.0), noise(1.0)
    raw = np.zeros(4 * 2 * 16_000 + 1, np.uint8)[1:]
    odd = raw.view(np.float32).reshape(2, 16_000)
    odd[:] = noise(1.0, 5), noise(1.0, 6)
    windows = np.lib.stride_tricks.sliding_window_view(long, 16_000)[::4_000]
    for array in (windows, np.broadcast_to(x, (3, 16_000)), odd):
        for _ in range(3):
            copies.clear()
            blocks = len(machine.blocks)
            result = engine.embed(Interface(array))
            assert copies[: len(array)] == len(array) * [4 * 16_000]
            assert_close(result.numpy(), engine.embed(np.ascontiguousarray(array)))
            del result
            gc.collect()
        assert len(machine.blocks) == blocks  # the copies are gone too


def test_what_is_not_there_any_more_is_not_read(engine):
    """The graph of a shape holds no address of an array."""
    for seed in range(4):
        x = noise(1.0, seed)
        source = x.copy()
        result = engine.embed(Interface(source))
        source[:] = np.nan
        assert_close(result.numpy(), engine.embed(x))


def test_calls_share_streams(engine, machine):
    for seconds in (1.0, 1.0, 9.0):
        engine.embed(on_gpu(noise(seconds)))
    before = len(machine.streams)
    results = [engine.embed(on_gpu(noise(1.0, seed))) for seed in range(3)]
    assert len(machine.streams) == before
    with pytest.raises(fe.AudioError, match="make it contiguous"):
        engine.embed(OnGpu(torch.zeros(16_000, 2).T))
    engine.embed(on_gpu(noise(1.0)))
    assert len(machine.streams) == before
    assert np.isfinite([result.numpy() for result in results]).all()


def test_a_copy_that_finds_no_memory(engine, machine, monkeypatch):
    expected = engine.embed(on_gpu(noise(1.0))).numpy()
    rows, allocate = np.broadcast_to(noise(1.0), (3, 16_000)), HostCuda.allocate

    def no_copy(self, size, stream):
        if size == rows.nbytes:
            raise OutOfMemory(size, "device")
        return allocate(self, size, stream)

    with monkeypatch.context() as patch:
        patch.setattr(HostCuda, "allocate", no_copy)
        with pytest.raises(fe.BackendError, match="out of device memory: a copy of 3 clips"):
            engine.embed(Interface(rows))
    assert np.array_equal(engine.embed(on_gpu(noise(1.0))).numpy(), expected)


def test_the_producers_stream_is_waited_for(engine, machine):
    source = on_gpu(noise(1.0))
    engine.embed(source)
    (stream,) = source.asked
    waits = list(machine.waits)
    slots = {waiting for waiting, recorded in waits if recorded == stream}
    assert slots  # the slot waits for the stream that the producer made wait
    assert any(waiting == stream and recorded in slots for waiting, recorded in waits)
    engine.embed(Interface(noise(1.0), stream=PRODUCER))
    assert PRODUCER in {recorded for _, recorded in machine.waits}
    engine.embed(Interface(noise(1.0), version=2))
    assert 1 in {recorded for _, recorded in machine.waits}


def test_the_consumers_stream_waits(engine, machine):
    result = engine.embed(on_gpu(noise(1.0)))
    ready = result._ready
    machine.waits.clear()
    result.__dlpack__(stream=5)
    result.__dlpack__()
    result.__dlpack__(stream=-1)
    assert machine.waits == [(5, ready), (1, ready)]
    assert result.__cuda_array_interface__["stream"] == 7
    assert machine.waits[2:] == [(7, ready), (1, ready)]  # whoever does not read it, too


def test_what_other_libraries_get(engine):
    x = noise(1.0)
    result, expected = engine.embed(on_gpu(x)), engine.embed(x)
    assert np.array_equal(np.from_dlpack(result), result.numpy())
    tensor = torch.from_dlpack(result)
    assert tensor.dtype == torch.float32
    assert_close(tensor.numpy(), expected)
    face = result.__cuda_array_interface__
    assert (face["shape"], face["typestr"], face["strides"]) == ((1280,), "<f4", None)
    assert "DeviceArray float32 [1280]" in repr(result)
    for asked in ({"copy": True}, {"dl_device": (2, 1)}):
        with pytest.raises(BufferError, match="not copied"):
            result.__dlpack__(**asked)


def test_lifetimes(open_plan, machine):
    engine = open_plan("chunked")
    source = Interface(noise(1.0))
    alive = weakref.ref(source)
    result = engine.embed(source)
    del source
    gc.collect()
    assert alive() is not None  # the device may still read it
    tensor = torch.from_dlpack(result)
    values = result.numpy()
    assert alive() is None
    engine.close()
    del result
    gc.collect()
    assert len(machine.blocks) == 1  # the result outlives its engine in its consumer
    assert np.array_equal(tensor.numpy(), values)
    del tensor
    gc.collect()
    assert not machine.blocks


def test_a_capsule_that_nobody_takes(engine, machine):
    result = engine.embed(on_gpu(noise(1.0)))
    before = len(machine.blocks)
    capsule = result.__dlpack__()
    del result
    gc.collect()
    assert len(machine.blocks) == before
    del capsule
    gc.collect()
    assert len(machine.blocks) == before - 1


def test_a_consumer_that_refuses(engine, machine, monkeypatch):
    """NumPy does so when it has the capsule, which it drops while its error is raised."""
    result = engine.embed(on_gpu(noise(1.0)))
    blocks = len(machine.blocks)
    monkeypatch.setattr(type(machine), "kind", dlpack.CUDA)
    with pytest.raises(Exception, match="Unsupported device in DLTensor"):
        np.from_dlpack(result)
    del result
    gc.collect()
    assert len(machine.blocks) == blocks - 1


def test_consumers_that_live_to_the_end_of_the_process():
    """Modules are torn down in no order: ours may be gone when the array is."""
    code = """
import sys, numpy, torch
from fusion_engine.engine.cuda import dlpack

class Array:
    values = numpy.ones(1000, numpy.float32)
    def __dlpack_device__(self):
        return dlpack.CPU, 0
    def __dlpack__(self, **options):
        return dlpack.export(self.values.ctypes.data, (1000,), (dlpack.CPU, 0), self)

for holder in (sys, numpy, torch):
    holder.kept = torch.from_dlpack(Array()), numpy.from_dlpack(Array())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_values_that_are_not_finite(engine, open_plan, tmp_path):
    x = np.stack([noise(1.0, 1), noise(1.0, 2)])
    x[1, 777] = np.nan
    result = engine.embed(on_gpu(x))
    for call in (result.check, result.numpy):
        with pytest.raises(fe.AudioError, match="clip 1: a sample is not finite"):
            call()
    long = np.stack([noise(9.0), noise(9.0)])
    long[1, 99_999] = np.inf
    with pytest.raises(fe.AudioError, match="clip 1: a sample"):
        engine.embed(on_gpu(long)).check()
    engine.embed(on_gpu(noise(1.0))).check()


def test_layer_outputs_that_are_not_finite(open_plan, tmp_path):
    from .artifacts import CHUNKED, write_artifact

    path = write_artifact(tmp_path / "overflow.onnx", CHUNKED, bias=np.inf)
    with open_plan(path) as engine:
        result = engine.embed(on_gpu(noise(1.0)))
        with pytest.raises(fe.NumericalError, match="clip 0: layer_2, layer_1"):
            result.check()


def test_arrays_that_do_not_fit(engine):
    zeros = torch.zeros
    for audio, error, message in (
        (
            OnGpu(zeros(16_000), device=1),
            fe.AudioError,
            "on cuda:1, and this engine runs on cuda:0",
        ),
        (OnGpu(zeros(16_000, dtype=torch.float64)), TypeError, "is float64 .*expected float32"),
        (OnGpu(zeros(16_000, dtype=torch.int32)), TypeError, "is int32"),
        (OnGpu(zeros(16_000, dtype=torch.bfloat16)), TypeError, "type code 4 with 16 bits"),
        (OnGpu(zeros(2, 3, 4)), fe.AudioError, r"\[2, 3, 4\]; expected"),
        (OnGpu(zeros(0)), fe.AudioError, "not empty"),
        (OnGpu(zeros(16_000, 2)), fe.AudioError, r"looks like \[samples, channels\]"),
        (OnGpu(zeros(16_000, 2).T), fe.AudioError, "make it contiguous"),
        ([OnGpu(zeros(16_000))], TypeError, r"clip 0 is .*OnGpu; expected an array"),
    ):
        with pytest.raises(error, match=message):
            engine.embed(audio)
    with pytest.raises(ValueError, match="not resampled"):
        engine.embed(OnGpu(zeros(16_000)), sample_rate=8_000)
    with pytest.raises(TypeError, match=r"is .*OnGpu; expected an array"):
        engine.embed_frames(OnGpu(zeros(16_000)))
    assert engine.embed(OnGpu(zeros(16_000)), sample_rate=16_000).shape == (1280,)


def test_an_array_of_the_interface_on_another_gpu(engine, machine, monkeypatch):
    """CUDA refuses to record its stream here: that must not be asked for."""
    monkeypatch.setattr(type(engine._runner._cuda), "device_of", lambda self, address: 1)
    with pytest.raises(fe.AudioError, match="on cuda:1, and this engine runs on cuda:0"):
        engine.embed(Interface(noise(1.0), stream=PRODUCER))
    assert not machine.waits


def test_an_engine_on_the_cpu(artifact):
    engine = fe.Engine(artifact("chunked"), device="cpu")
    with pytest.raises(fe.BackendError, match="in GPU memory, and this engine runs on 'cpu'"):
        engine.embed(OnGpu(torch.zeros(16_000)))


def test_what_is_on_a_gpu():
    assert is_on_gpu(OnGpu(torch.zeros(1)))
    assert is_on_gpu(Interface(np.zeros(1)))
    for other in (
        OfTheInterfaceAlone(),
        np.zeros(1),
        torch.zeros(1),
        "x.wav",
        [OnGpu(torch.zeros(1))],
        None,
    ):
        assert not is_on_gpu(other)
