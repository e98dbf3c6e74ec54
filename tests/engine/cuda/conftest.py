"""Engines on the double, and on the CPU to compare with."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fusion_engine as fe
from fusion_engine.engine import open as opening
from fusion_engine.engine.cuda.onnx_network import OnnxCudaNetwork
from fusion_engine.spec import Spec

from .artifacts import SPECS, write_artifact
from .double import GPU, HostCuda, HostKernels, Machine
from .tensorrt_double import TensorRT

REBUILD = "fusion-engine build MODEL.onnx -o MODEL.plan"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The double in place of a GPU; everything must be given back when its engines are closed."""
    machine = Machine()

    def onnx_on_host(path: Path, **options: Any) -> OnnxCudaNetwork:
        options |= {"device": ("cpu", 0), "providers": ["CPUExecutionProvider"]}
        return OnnxCudaNetwork(path, **options)

    for name, value in {
        "find_gpu": lambda device: GPU,
        "cuda_missing": lambda device: None,
        "preload_cuda_libraries": lambda: None,
        "Cuda": lambda info: HostCuda(machine, info),
        "Kernels": lambda *arguments: HostKernels(machine, *arguments),
        "OnnxCudaNetwork": onnx_on_host,
    }.items():
        monkeypatch.setattr(opening, name, value)
    return machine


class Library:
    """A loaded TensorRT library: its module is the double."""

    runtime, version, logger = "tensorrt", "double", None

    def __init__(self, module: TensorRT) -> None:
        self.module = module

    def __str__(self) -> str:
        return "tensorrt double"

    def listen(self) -> Any:
        heard = SimpleNamespace(errors=[], reason=lambda otherwise: otherwise)
        return nullcontext(heard)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Path of the artifact of that name."""
    folder = tmp_path_factory.mktemp("small")

    def get(name: str) -> Path:
        path = folder / f"{name}.onnx"
        return path if path.exists() else write_artifact(path, SPECS[name])

    return get


@pytest.fixture
def open_onnx(machine: Machine, artifact: Callable[[str], Path]) -> Callable[..., fe.Engine]:
    """An engine on ONNX Runtime bound to the double's memory."""
    return lambda name, **options: fe.Engine(artifact(name), device="cuda", **options)


@pytest.fixture
def open_plan(
    machine: Machine,
    artifact: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[..., fe.Engine]:
    """An engine on the double of TensorRT; ``trt`` are the double's options."""

    def get(name: str | Path, *, trt: dict[str, Any] | None = None, **options: Any) -> fe.Engine:
        source = artifact(name) if isinstance(name, str) else name
        plan = tmp_path / f"{source.stem}.plan"
        plan.write_bytes(source.read_bytes())
        spec: Spec = fe.Engine(source, device="cpu").spec
        info = SimpleNamespace(runtime=None, spec=spec, rebuild_command=REBUILD)
        get.module = TensorRT(machine, **(trt or {}))
        monkeypatch.setattr(opening, "preflight", lambda path, gpu: info)
        monkeypatch.setattr(opening, "import_tensorrt", lambda runtime: Library(get.module))
        return fe.Engine(plan, **options)

    return get
