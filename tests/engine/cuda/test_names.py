"""What the runtime uses of CUDA's and TensorRT's Python packages is in them as it is used."""

import ast
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
import pytest

from fusion_engine.engine import devices
from fusion_engine.engine.cuda import driver as cuda_driver
from fusion_engine.engine.cuda import onnx_network, tensorrt_network
from fusion_engine.engine.tensorrt import monitor, runtime_cache, serialize

from . import signatures
from .signatures import problems


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
def test_tensorrt_rtx():
    import tensorrt_rtx

    assert list(problems(tensorrt_rtx)) == []


WRONG = [
    (
        tensorrt_network,
        "get_tensor_format(name, profile)",
        "get_tensor_format(name, x=1)",
        "x=1): ",
    ),
    (tensorrt_network, "set_input_shape(", "set_shape(", "missing: IExecutionContext.set_shape"),
    (
        tensorrt_network,
        "self._context.infer_shapes()",
        "self._context.infer_shapes(1)",
        "shapes(1): ",
    ),
    (serialize, "config.add_optimization_profile(", "config.add_profile(", "missing: IBuilderConf"),
    (serialize, "parser.parse(graph)", "parser.parse()", "parser.parse(): "),
    (monitor, "parent: str | None, steps", "steps", "Monitor.phase_start: "),
    (runtime_cache, "deserialize(data)", "deserialize(data, 1)", "deserialize(data, 1): "),
    (runtime_cache, "config", "given", "runtime_cache does not use config: it has changed"),
]


@pytest.mark.rtx
@pytest.mark.parametrize(("module", "old", "new", "said"), WRONG)
def test_what_is_wrong_is_found(monkeypatch, module, old, new, said):
    import tensorrt_rtx

    source = inspect.getsource(module)
    assert old in source
    monkeypatch.setattr(signatures, "OWNERS", {module: signatures.OWNERS[module]})
    monkeypatch.setattr(inspect, "getsource", lambda _: source.replace(old, new))
    assert said in "\n".join(problems(tensorrt_rtx))


LIBRARIES = rb"lib(?:nvinfer|nvinfer_plugin|nvonnxparser)\.so\.\d+"
# What the bindings link to: never called, since all that is read is names and docstrings.
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


@pytest.mark.rtx
def test_tensorrt(tmp_path):
    """Its bindings alone (pip install --no-deps tensorrt-cu13-bindings), over empty libraries."""
    bindings = importlib.util.find_spec("tensorrt_bindings")
    compiler = shutil.which("cc")
    if bindings is None or compiler is None:
        pytest.skip("tensorrt-cu13-bindings or a C compiler is not installed")
    (module,) = Path(bindings.origin).parent.glob("tensorrt.*so")
    source = tmp_path / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for name in set(re.findall(LIBRARIES, module.read_bytes())):
        soname = name.decode()
        args = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", tmp_path / soname]
        subprocess.run([*args, source], check=True)
    program = """
import tensorrt_bindings
from tests.engine.cuda.signatures import RTX_ONLY, problems

missing = {f"missing: {name}" for name in RTX_ONLY}
print(*sorted(missing ^ set(problems(tensorrt_bindings))), sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


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
