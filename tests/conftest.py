"""Fixtures of the whole suite."""

import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

# No test is a matter of time.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _gpu_tier(request: pytest.FixtureRequest) -> None:
    """Skip a test marked ``gpu`` where it cannot run; fail it with FUSION_ENGINE_REQUIRE_GPU=1."""
    if request.node.get_closest_marker("gpu") is None:
        return
    reason = _gpu_missing()
    if reason is None:
        return
    if os.environ.get("FUSION_ENGINE_REQUIRE_GPU") == "1":
        pytest.fail(f"FUSION_ENGINE_REQUIRE_GPU=1, but {reason}")
    pytest.skip(reason)


def _gpu_missing() -> str | None:
    import torch

    from fusion_engine import _core

    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    if not _core.cuda_enabled:
        return "fusion_engine was built without CUDA"
    return None


@pytest.fixture(scope="session")
def cnn14_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CNN14 cut after its first block, random weights: 0.2 MB, D = 2048."""
    from fusion_engine.export import export

    path = tmp_path_factory.mktemp("cnn14") / "cnn14_1.onnx"
    export("cnn14", path, layers=[1], weights="random:0")
    return path


@pytest.fixture(scope="session")
def layer_study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of a whole `probe layers`: CNN14, random weights, two tasks."""
    base = tmp_path_factory.getbasetemp()
    # The first of pytest-xdist's workers makes it for all.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "study"
    folder.mkdir(exist_ok=True)
    output = folder / "output.txt"
    with FileLock(folder / "lock"):
        if not output.exists():
            output.write_text(_study_layers(folder))
    return folder / "results", output.read_text()


def _study_layers(folder: Path) -> str:
    args = ["probe", "layers", "--model", "cnn14", "--weights", "random:0", "-o", "results"]
    args += ["--task", "synthetic_pitch", "--task", "synthetic_rhythm"]
    done = subprocess.run(
        [sys.executable, "-m", "fusion_engine", *args],
        cwd=folder,
        # PyTorch's products are small here: on a busy machine its threads wait for each other.
        env=os.environ | {"FUSION_ENGINE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
