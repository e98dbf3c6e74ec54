"""The layer between the runtime and CUDA, on a GPU: what the double stands in for."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import fusion_engine as fe
from fusion_engine import _core
from fusion_engine.engine.cuda import dlpack
from fusion_engine.engine.cuda.arrays import DeviceArray
from fusion_engine.engine.cuda.driver import Cuda, OutOfMemory
from fusion_engine.engine.devices import check, find_gpu

pytestmark = pytest.mark.gpu


@pytest.fixture
def cuda():
    cuda = Cuda(find_gpu("cuda"))
    yield cuda
    gc.collect()
    with cuda.current():
        cuda.close()


@pytest.fixture
def stream(cuda):
    with cuda.current():
        stream = cuda.stream()
        yield stream
        stream.synchronize()
        stream.close()


def host(count):
    return np.arange(count, dtype=np.uint32)


def test_what_is_found():
    gpu, properties = find_gpu("cuda:0"), torch.cuda.get_device_properties(0)
    assert gpu.name == properties.name
    assert gpu.compute_capability == torch.cuda.get_device_capability(0)
    assert gpu.multiprocessors == properties.multi_processor_count
    assert abs(gpu.total_memory - properties.total_memory) < 2**30
    with pytest.raises(fe.BackendError, match=rf"CUDA sees {torch.cuda.device_count()} on this"):
        find_gpu("cuda:99")


def test_the_callers_context_comes_back(cuda):
    driver = cuda._driver
    before = int(check(driver.cuCtxGetCurrent()))
    with cuda.current():
        inside = int(check(driver.cuCtxGetCurrent()))
        with cuda.current():
            assert int(check(driver.cuCtxGetCurrent())) == inside
        assert inside == int(cuda._context)
    assert int(check(driver.cuCtxGetCurrent())) == before


def test_copies_and_fills(cuda, stream):
    values, back = host(1000), np.zeros(1000, np.uint32)
    memory = cuda.allocate(values.nbytes, stream)
    assert memory.address % 256 == 0
    cuda.copy(memory.address, values.ctypes.data, values.nbytes, stream)
    cuda.fill(memory.address + 40, 0xFF800000, 5, stream)
    cuda.copy(back.ctypes.data, memory.address, back.nbytes, stream)
    stream.synchronize()
    values[10:15] = 0xFF800000
    assert np.array_equal(back, values)
    memory.close(stream)


def test_pinned_memory(cuda, stream):
    pinned = cuda.pinned(4096)
    pinned.bytes.view(np.uint32)[:] = host(1024)
    memory = cuda.allocate(4096, stream)
    cuda.copy(memory.address, pinned.address, 4096, stream)
    stream.synchronize()
    pinned.bytes[:] = 0
    cuda.copy(pinned.address, memory.address, 4096, stream)
    stream.synchronize()
    assert np.array_equal(pinned.bytes.view(np.uint32), host(1024))
    memory.close(stream)
    pinned.close()


def test_a_graph_copies_what_is_there_when_it_is_launched(cuda, stream):
    pinned, memory = cuda.pinned(512), cuda.allocate(256, stream)

    def work():
        cuda.copy(memory.address, pinned.address, 256, stream)
        cuda.fill(memory.address, 7, 1, stream)
        cuda.copy(pinned.address + 256, memory.address, 256, stream)

    work()
    stream.synchronize()
    pinned.bytes[:] = 0
    graph = cuda.capture(stream, work)
    stream.synchronize()
    assert not pinned.bytes.any()  # nothing ran
    words = pinned.bytes.view(np.uint32)
    for start in (100, 200):
        words[:64] = host(64) + start
        graph.launch(stream)
        stream.synchronize()
        assert words[64] == 7
        assert np.array_equal(words[65:], words[1:64])
    graph.close()
    memory.close(stream)
    pinned.close()


def test_a_native_launch_is_done_when_it_returns(cuda, stream):
    """In a thread without a context, whose context is none afterwards too."""
    pinned, memory = cuda.pinned(1024), cuda.allocate(768, stream)
    words = pinned.bytes.view(np.uint32)
    program = _core.Program(
        cuda.native(stream),
        device=memory.address,
        flags=pinned.address,
        lengths=pinned.address + 256,
        samples=pinned.address + 512,
        dtype="float32",
        clips=1,
        stride=16,
        embedding=pinned.address + 768,
        dim=16,
        largest=1.0,
    )

    def work():
        cuda.copy(pinned.address + 768, memory.address + 512, 64, stream)

    graph = cuda.capture(stream, work)

    def run():
        result = program.run([np.arange(16, dtype=np.float32) / 16], graph.handle)
        return result, int(check(cuda._driver.cuCtxGetCurrent()))

    with ThreadPoolExecutor(1) as pool:
        (embedding, flags, faulty), context = pool.submit(run).result()
    assert np.array_equal(embedding, np.arange(16, dtype=np.float32)[None] / 16)
    assert (flags.tolist(), faulty, context) == ([0], [], 0)
    assert words[64] == 16  # the length
    graph.close()
    memory.close(stream)
    pinned.close()


def test_a_capture_that_fails_leaves_the_stream_usable(cuda, stream):
    def work():
        stream.synchronize()

    with pytest.raises(Exception, match="CAPTURE"):
        cuda.capture(stream, work)
    memory = cuda.allocate(256, stream)
    cuda.fill(memory.address, 0, 64, stream)
    stream.synchronize()
    memory.close(stream)


def test_a_result_that_is_dropped_during_a_capture(cuda, stream):
    """Its free would break the capture, and waits for the next allocation."""
    kept, results = cuda.allocate(256, stream), [cuda.allocate(256, stream)]

    def work():
        cuda.fill(kept.address, 1, 64, stream)
        results.clear()

    graph = cuda.capture(stream, work)
    assert len(cuda._deferred) == 1
    graph.launch(stream)
    cuda.allocate(256, stream).close(stream)
    assert not cuda._deferred
    stream.synchronize()
    graph.close()
    kept.close(stream)


def test_what_is_read_outlives_a_result_that_is_dropped(cuda, stream):
    other = torch.cuda.Stream()
    with torch.cuda.stream(other):
        torch.cuda._sleep(200_000_000)
    cuda.wait_for_stream(stream, other.cuda_stream)
    memory, source = cuda.allocate(256, stream), torch.zeros(4)
    memory.last, memory.source = cuda.record(stream), source
    alive = weakref.ref(source)
    del memory, source
    assert alive() is not None
    stream.synchronize()
    cuda.allocate(256, stream).close(stream)
    assert alive() is None


def test_more_than_there_is(cuda, stream):
    with pytest.raises(OutOfMemory, match="of device memory"):
        cuda.allocate(2**45, stream)
    with pytest.raises(OutOfMemory, match="of pinned host memory"):
        cuda.pinned(2**45)
    cuda.allocate(256, stream).close(stream)
    free, total = cuda.memory()
    assert 0 < free < total


def test_memory_goes_back_to_the_system(cuda, stream):
    before, _ = torch.cuda.mem_get_info()
    memory = cuda.allocate(2**30, stream)
    stream.synchronize()
    assert before - torch.cuda.mem_get_info()[0] >= 2**30
    memory.close(stream)
    stream.synchronize()
    cuda.trim()
    assert before - torch.cuda.mem_get_info()[0] < 2**26


def test_streams_wait_for_events(cuda, stream):
    """A copy on ours after a long kernel on torch's, and the reverse."""
    other = torch.cuda.Stream()
    tensor = torch.zeros(1000, dtype=torch.int32, device="cuda")
    back = np.zeros(1000, np.int32)
    torch.cuda.synchronize()
    with torch.cuda.stream(other):
        torch.cuda._sleep(100_000_000)
        tensor.fill_(5)
    cuda.wait_for_stream(stream, other.cuda_stream)
    cuda.copy(back.ctypes.data, tensor.data_ptr(), back.nbytes, stream)
    stream.synchronize()
    assert (back == 5).all()
    cuda.fill(tensor.data_ptr(), 6, 1000, stream)
    cuda.wait(other.cuda_stream, cuda.record(stream))
    with torch.cuda.stream(other):
        assert (tensor == 6).all().item()
    assert cuda.device_of(tensor.data_ptr()) == 0


def test_results_in_torch(cuda, stream):
    memory = cuda.allocate(4 * 6 + 8, stream)
    values = np.arange(6, dtype=np.float32)
    cuda.copy(memory.address, values.ctypes.data, values.nbytes, stream)
    cuda.fill(memory.address + 24, 0, 2, stream)
    memory.last = cuda.record(stream)
    array = DeviceArray(
        cuda,
        memory,
        (6,),
        ready=memory.last,
        flags=24,
        raise_for=lambda layers, samples: None,
    )
    assert np.array_equal(array.numpy(), values)
    assert array.__dlpack_device__() == (dlpack.CUDA, 0)
    first, second = torch.from_dlpack(array), torch.as_tensor(array, device="cuda")
    del array, memory
    gc.collect()
    assert first.tolist() == second.tolist() == values.tolist()
    assert first.data_ptr() == second.data_ptr()
