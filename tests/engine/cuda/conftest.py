"""Engines on the double, and on the CPU to compare with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fusion_engine as fe

from .artifacts import SPECS, write_artifact
from .double import Machine
from .engines import open_as_plan, put_double_in_place
from .tensorrt_double import TensorRT


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The double in place of a GPU; everything must be given back when its engines are closed."""
    return put_double_in_place(monkeypatch)


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
        get.module = TensorRT(machine, **(trt or {}))
        return open_as_plan(source, tmp_path, get.module, monkeypatch, **options)

    return get
