"""Artifacts that plans are built from; tensorrt_rtx builds them for real, without a GPU."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from fusion_engine.engine.devices import GpuInfo
from fusion_engine.engine.tensorrt import Library, PlanInfo, build, checks, import_tensorrt, targets
from fusion_engine.engine.tensorrt import library as library_module
from fusion_engine.engine.tensorrt.library import RUNTIMES, VERBOSE
from fusion_engine.export import resolve
from fusion_engine.export.graph import backbone_module, trace_graph

from ...export.structure import spec_of
from ...exports import Shared

# AST's graph does not depend on its length: a short one, which is traced sooner.
FRAMES = {"ast": 128}


@pytest.fixture(scope="session")
def artifact(shared: Shared) -> Callable[[str], Path]:
    """``artifact("vggish")``: a model with its default layers, as an export writes it.

    Without the comparison with PyTorch in FP64, which takes longer than all that is built of it.
    """

    def get(model: str) -> Path:
        def make(folder: Path) -> None:
            backbone = resolve(model).configured(frames=FRAMES.get(model), token=None)
            state = backbone.random_state(0)
            backbone = backbone.for_checkpoint(state)
            layers = backbone.default_layers
            folded = backbone.fold(backbone.check_state(state, layers))
            module = backbone_module(backbone, folded, layers)
            onnx.save(trace_graph(module, spec_of(backbone, layers)), folder / f"{model}.onnx")

        return shared(f"traced_{model}", make) / f"{model}.onnx"

    return get


@pytest.fixture
def small(cnn14_artifact: Path, tmp_path: Path) -> PlanInfo:
    """A plan of CNN14's first block in BF16, 1.7 MB, alone in its folder."""
    return build(cnn14_artifact, tmp_path / "small.plan", precision="bf16")


@pytest.fixture(scope="session")
def library() -> Library:
    return import_tensorrt("tensorrt_rtx")


@pytest.fixture
def gpu() -> GpuInfo:
    """What a machine with an L4 would say, which both libraries serve."""
    return GpuInfo(
        index=0,
        name="NVIDIA L4",
        compute_capability=(8, 9),
        total_memory=24 << 30,
        multiprocessors=58,
        driver="13.0",
    )


@pytest.fixture
def h200(gpu: GpuInfo) -> GpuInfo:
    """What a machine with an H200 would say, which TensorRT for RTX has no target for."""
    return replace(gpu, name="NVIDIA H200", compute_capability=(9, 0), multiprocessors=132)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where both libraries are installed; `tensorrt` is not, and is not loaded."""
    for module in (library_module, targets, checks):
        monkeypatch.setattr(module, "installed_runtimes", lambda: list(RUNTIMES))


class _Keep(logging.Handler):
    """Keeps the few messages in thousands."""

    def __init__(self) -> None:
        super().__init__()
        self.found = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "Engine Layer Information:" in message:
            self.found += message


@pytest.fixture
def engine_log(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What the builder says of the engine that it made."""
    keep = _Keep()
    log = logging.getLogger("fusion_engine.engine.tensorrt.library")
    monkeypatch.setattr(log, "propagate", False)
    monkeypatch.setattr(log, "handlers", [keep])
    monkeypatch.setattr(log, "level", VERBOSE)
    log.manager._clear_cache()
    return lambda: keep.found
