"""Artifacts that plans are built from; tensorrt_rtx builds them for real, without a GPU."""

import logging
from collections.abc import Callable, Iterator
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
from ...exports import with_layers

# Exports of all layers; AST's is of 1 s, and its graph does not depend on its length.
EXPORTS = {"vggish": "vggish_all", "ast": "ast_second"}


@pytest.fixture(scope="session")
def artifact(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Path]]:
    """``artifact("vggish")``: a model with its default layers."""
    folder = tmp_path_factory.mktemp("artifacts")

    def trace(model: str, path: Path) -> None:
        """As an export writes it, without its comparison with PyTorch in FP64."""
        backbone = resolve(model)
        layers = backbone.default_layers
        folded = backbone.fold(backbone.check_state(backbone.random_state(0), layers))
        module = backbone_module(backbone, folded, layers)
        onnx.save(trace_graph(module, spec_of(backbone, layers)), path)

    def get(model: str) -> Path:
        if model == "cnn14_16k":
            return request.getfixturevalue("cnn14_fusion").path
        path = folder / f"{model}.onnx"
        if path.exists():
            return path
        if model in EXPORTS:
            whole = request.getfixturevalue(EXPORTS[model])
            return with_layers(whole.path, path, resolve(model).default_layers)
        trace(model, path)
        return path

    yield get
    for path in folder.glob("*.onnx"):
        path.unlink()  # 300 MB each, and pytest keeps the folders of the last runs


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
