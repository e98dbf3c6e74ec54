"""Engines on the double, for tests and for benchmarks of the host's part of a call."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fusion_engine as fe
from fusion_engine.engine import open_gpu
from fusion_engine.engine.cuda.onnx_network import OnnxCudaNetwork
from fusion_engine.spec import Spec

from .double import GPU, HostCuda, HostKernels, Machine
from .tensorrt_double import TensorRT

REBUILD = "fusion-engine build MODEL.onnx -o MODEL.plan"


def put_double_in_place(patch: pytest.MonkeyPatch) -> Machine:
    """What is opened on a GPU is opened on the double, until the patch is undone."""
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
        patch.setattr(open_gpu, name, value)
    return machine


class Library:
    """A loaded TensorRT library: its module is the double."""

    version, logger = "double", None

    def __init__(self, module: TensorRT) -> None:
        self.module, self.is_rtx = module, module.rtx

    def __str__(self) -> str:
        return "tensorrt double"

    def listen(self) -> Any:
        heard = SimpleNamespace(errors=[], reason=lambda otherwise: otherwise)
        return nullcontext(heard)


def open_as_plan(
    source: Path, folder: Path, trt: TensorRT, patch: pytest.MonkeyPatch, **options: Any
) -> fe.Engine:
    """An artifact on the double of TensorRT; the plan, which is its copy, goes into the folder."""
    plan = folder / f"{source.stem}.plan"
    plan.write_bytes(source.read_bytes())
    spec: Spec = fe.Engine(source, device="cpu").spec
    info = SimpleNamespace(
        runtime=None, spec=spec, input=trt.network_input, rebuild_command=REBUILD
    )
    patch.setenv("FUSION_ENGINE_CACHE", str(folder / "cache"))
    patch.setattr(open_gpu, "preflight", lambda path, gpu: info)
    patch.setattr(open_gpu, "library_for", lambda gpu, runtime: Library(trt))
    return fe.Engine(plan, **options)
