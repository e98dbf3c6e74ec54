"""Every name of CUDA's and TensorRT's Python packages that the runtime uses exists in them."""

import ast
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
import pytest

from fusion_engine.engine import devices
from fusion_engine.engine.cuda import driver as cuda_driver
from fusion_engine.engine.cuda import onnx_network, tensorrt_network


def used_names(module: ModuleType, owner: str) -> set[str]:
    """Attributes that the module's source takes from the expression ``owner``."""
    return {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == owner
    }


def assert_names(module: ModuleType, owners: dict[str, Any]) -> None:
    for owner, real in owners.items():
        names = used_names(module, owner)
        assert names, f"{owner} is not used: {module.__name__} has changed"
        missing = {name for name in names if not hasattr(real, name)}
        assert not missing, f"{owner}: {real} has no {missing}"


def test_cuda_core_and_bindings():
    import cuda.core as core
    from cuda.bindings import driver
    from cuda.core import _device

    assert_names(
        cuda_driver,
        {
            "self._core": core,
            "self._driver": driver,
            "driver": driver,
            "self._driver.CUpointer_attribute": driver.CUpointer_attribute,
            "self._driver.CUresult": driver.CUresult,
            "self._driver.CUstreamCaptureMode": driver.CUstreamCaptureMode,
            "self._device": core.Device,
            "self._device.context": core.Context,
            "self._pool": core.DeviceMemoryResource,
            "self._results": core.Stream,
            "self.core": core.Stream,
            "stream.core": core.Stream,
            "event": core.Event,
            "last": core.Event,
        },
    )
    assert_names(
        devices,
        {
            "core": core,
            "driver": driver,
            "found": core.Device,
            "found.properties": _device.DeviceProperties,
        },
    )


def test_cuda_core_takes_the_arguments():
    """Parameters by name, as the stubs in the package declare them."""
    import cuda.core

    stubs = Path(inspect.getfile(cuda.core)).parent
    signature = "def wait(self, event_or_stream: Event | Stream) -> None"
    assert signature in (stubs / "_stream.pyi").read_text(encoding="utf-8")


@pytest.mark.rtx
def test_tensorrt():
    trt = pytest.importorskip("tensorrt_rtx")
    assert_names(
        tensorrt_network,
        {
            "trt": trt,
            "trt.ExecutionContextAllocationStrategy": trt.ExecutionContextAllocationStrategy,
            "trt.CudaGraphStrategy": trt.CudaGraphStrategy,
            "trt.DynamicShapesKernelSpecializationStrategy": (
                trt.DynamicShapesKernelSpecializationStrategy
            ),
            "library.module": trt,
            "runtime": trt.Runtime,
            "self._engine": trt.ICudaEngine,
            "engine": trt.ICudaEngine,
            "self._context": trt.IExecutionContext,
            "config": trt.IRuntimeConfig,
        },
    )
    assert hasattr(trt.IExecutionContext, "is_stream_capturable")
    formats = {"LINEAR", *tensorrt_network._CHANNELS_LAST}
    assert all(hasattr(trt.TensorFormat, name) for name in formats)
    assert all(hasattr(trt.DataType, name) for name in tensorrt_network._DTYPES)


def test_onnxruntime():
    session = onnxruntime.InferenceSession
    binding = onnxruntime.capi.onnxruntime_inference_collection.IOBinding
    assert_names(
        onnx_network,
        {
            "self._binding": binding,
            "self._onnx.session": session,
            "onnx.session": session,
            "onnx.runtime": onnxruntime,
            "runtime": onnxruntime,
            "self._options": onnxruntime.RunOptions,
            "value": onnxruntime.OrtValue,
        },
    )
