"""The layer between the runtime and CUDA, on a driver that writes down what it is asked."""

from collections import deque
from types import SimpleNamespace

import pytest

import fusion_engine as fe
from fusion_engine.engine.cuda.driver import Cuda, Memory, native_functions

from .double import CONTEXT, Machine, NativeDriver

STREAM = SimpleNamespace(handle=7)
EXECUTABLE = 5


class Driver:
    """Streams record graphs; one whose work was not permitted loses its graph at the end."""

    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="thread_local")

    def __init__(self):
        self.invalid = False
        self.calls = []
        self.graphs = set()

    def cuStreamBeginCapture(self, stream, mode):
        assert (stream, mode) == (7, "thread_local")
        self.calls.append("begin")
        return (0,)

    def cuStreamEndCapture(self, stream):
        self.calls.append("end")
        if self.invalid:
            name = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
            return Error(901, name), None
        self.graphs.add("graph")
        return 0, "graph"

    def cuGraphInstantiate(self, graph, flags):
        assert graph in self.graphs
        assert flags == 0
        self.graphs.add(EXECUTABLE)
        return 0, EXECUTABLE

    def cuGraphDestroy(self, graph):
        self.graphs.remove(graph)
        return (0,)

    def cuGraphLaunch(self, graph, stream):
        assert graph in self.graphs
        self.calls.append(("launch", stream))
        return (0,)

    def cuGraphExecDestroy(self, graph):
        self.graphs.remove(graph)
        return (0,)


class Error(int):
    def __new__(cls, value, name):
        error = super().__new__(cls, value)
        error.name = name
        return error


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def cuda(driver):
    return on(driver)


def on(driver):
    cuda = Cuda.__new__(Cuda)
    cuda._driver, cuda._deferred = driver, deque()
    cuda._native, cuda._context = NativeDriver(Machine()).native, CONTEXT
    return cuda


def test_a_capture(cuda, driver):
    graph = cuda.capture(STREAM, lambda: driver.calls.append("work"))
    assert driver.calls == ["begin", "work", "end"]
    assert driver.graphs == {EXECUTABLE}
    graph.launch(STREAM)
    assert driver.calls[-1] == ("launch", 7)
    graph.close()
    assert not driver.graphs


def test_the_functions_that_native_code_calls():
    asked = []

    def address(name, version, flags):
        asked.append((name, version, flags))
        return 0, 0x1000, "found"

    native_functions(SimpleNamespace(cuGetProcAddress=address))
    names = ["cuCtxPushCurrent", "cuCtxPopCurrent", "cuMemcpyHtoDAsync", "cuGraphLaunch"]
    names += ["cuStreamSynchronize", "cuGetErrorName"]
    # The bytes, since bindings take no text; the version makes them _v2 where there is one.
    assert asked == [(name.encode(), 11_040, 0) for name in names]
    with pytest.raises(ValueError, match="cuCtxPushCurrent is 0; expected its address"):
        native_functions(SimpleNamespace(cuGetProcAddress=lambda *_: (0, 0, "not found")))


def test_work_that_fails_ends_the_capture(cuda, driver):
    def work():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cuda.capture(STREAM, work)
    assert driver.calls == ["begin", "end"]
    assert not driver.graphs


@pytest.mark.parametrize("raises", [False, True])
def test_a_capture_that_was_invalidated_has_no_graph_to_destroy(cuda, driver, raises):
    """CUDA has destroyed it by then: to do so again ends the process."""

    def work():
        driver.invalid = True
        if raises:
            raise fe.BackendError("CUDA failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    with pytest.raises(fe.BackendError, match="CAPTURE_UNSUPPORTED" if raises else "INVALIDATED"):
        cuda.capture(STREAM, work)
    assert driver.calls == ["begin", "end"]
    assert not driver.graphs


def test_the_result_of_another_engine_that_is_dropped_during_a_capture(cuda, driver):
    """Its free would break this engine's capture as much as one of this engine's."""
    other = on(SimpleNamespace())  # that knows no calls
    cuda.capture(STREAM, lambda: Memory(other, 4096, 256).__del__())
    assert [address for address, _, _ in other._deferred] == [4096]
