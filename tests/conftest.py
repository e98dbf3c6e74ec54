"""Fixtures of the whole suite."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from filelock import FileLock

if TYPE_CHECKING:
    import torch

    from fusion_engine.export import ExportReport

    from .exports import Shared

# No test is a matter of time.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


# Where the workers of a run find what one of them made.
SHARED = "FUSION_ENGINE_TESTS_SHARED"
# Fixtures that are a whole model's, a wheel or a cluster.
HEAVY = {
    "cnn14_all",
    "cnn14_fusion",
    "vggish_all",
    "ast_second",
    "layer_study",
    "dist",
    "cluster",
} | {"service"}


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that all processes of this run share, and remove it with the first one."""
    if SHARED in os.environ:  # of a worker, which inherits it
        return
    folder = tempfile.TemporaryDirectory(prefix="fusion_engine-tests-")
    os.environ[SHARED] = folder.name
    config.add_cleanup(folder.cleanup)
    config.add_cleanup(lambda: os.environ.pop(SHARED))


def pytest_report_header() -> str | None:
    """Which network the tests on a GPU run, which `make gpu` asks for."""
    if os.environ.get("FUSION_ENGINE_REQUIRE_GPU") != "1":
        return None
    from .gpu import tensorrt_missing

    reason = tensorrt_missing()
    if reason is None:
        return "network on the GPU: TensorRT's"
    return f"network on the GPU: PyTorch's in place of TensorRT's, since {reason}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a heavy fixture as heavy, and put files with heavy tests first.

    What is short fills the end of the worker that is done sooner.
    """
    for item in items:
        if HEAVY.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.heavy)
    heavy = {item.path for item in items if item.get_closest_marker("heavy")}
    items.sort(key=lambda item: item.path not in heavy)


@pytest.fixture(scope="session")
def shared() -> Shared:
    """``shared("study", make)``: a folder that ``make`` has filled, once in a run.

    Whichever worker asks first makes it, the others wait. It is for reading.
    """
    base = Path(os.environ[SHARED])

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder = base / name
        with FileLock(base / f"{name}.lock"):
            if not folder.exists():
                unfinished = Path(tempfile.mkdtemp(dir=base))
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return get


@pytest.fixture(autouse=True)
def _log_level_is_put_back() -> Iterator[None]:
    """The command line sets it; what is left set hides records from the tests that come after."""
    yield
    logger = logging.getLogger("fusion_engine")
    level = logger.level
    logger.setLevel(logging.NOTSET)
    assert level == logging.NOTSET, "a test left the level set; see cli/in_process.py"


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
def cnn14_artifact(shared: Shared) -> Path:
    """CNN14 cut after its first block, random weights: 0.2 MB, D = 2048."""
    from fusion_engine.export import export

    def make(folder: Path) -> None:
        export("cnn14", folder / "cnn14_1.onnx", layers=[1], weights="random:0")

    return shared("cnn14_1", make) / "cnn14_1.onnx"


@pytest.fixture(scope="session")
def two_layers(shared: Shared) -> Path:
    """CNN14's blocks 1 and 2 of the same weights, for 2 s."""
    from fusion_engine.export import export

    def make(folder: Path) -> None:
        path = folder / "cnn14_1_2.onnx"
        export("cnn14", path, layers=[1, 2], weights="random:0", seconds=2)

    return shared("cnn14_1_2", make) / "cnn14_1_2.onnx"


@pytest.fixture(scope="session")
def panns_16k() -> torch.nn.Module:
    """PANNs' own Cnn14 at 16 kHz, FP32."""
    from .oracles import panns_cnn14

    return panns_cnn14(16_000)


@pytest.fixture(scope="session")
def panns_checkpoint(shared: Shared, request: pytest.FixtureRequest) -> Path:
    """Its weights as PANNs published theirs: not zipped, the sampler's arrays beside them."""

    def make(folder: Path) -> None:
        import torch

        from .oracles import panns_checkpoint

        content = panns_checkpoint(request.getfixturevalue("panns_16k"))
        torch.save(content, folder / "Cnn14_16k.pth", _use_new_zipfile_serialization=False)

    return shared("panns_16k", make) / "Cnn14_16k.pth"


@pytest.fixture(scope="session")
def cnn14_all(shared: Shared, panns_checkpoint: Path) -> ExportReport:
    """The export of all seven layers of that checkpoint."""
    from .exports import CNN14_LAYERS, exported

    return exported(shared, "cnn14_all", "cnn14", panns_checkpoint, layers=CNN14_LAYERS)


@pytest.fixture(scope="session")
def cnn14_fusion(shared: Shared, panns_checkpoint: Path) -> ExportReport:
    """CNN14-Fusion, the export of layers 3 and 6 of that checkpoint."""
    from .exports import exported

    return exported(shared, "cnn14_fusion", "cnn14", panns_checkpoint)


@pytest.fixture(scope="session")
def torchvggish() -> torch.nn.Module:
    """torchvggish's own model, FP32."""
    from .oracles import vggish

    return vggish()


@pytest.fixture(scope="session")
def vggish_checkpoint(shared: Shared, request: pytest.FixtureRequest) -> Path:
    """Its state dict, as torchvggish publishes its own."""

    def make(folder: Path) -> None:
        import torch

        torch.save(request.getfixturevalue("torchvggish").state_dict(), folder / "vggish.pth")

    return shared("torchvggish", make) / "vggish.pth"


@pytest.fixture(scope="session")
def vggish_all(shared: Shared, vggish_checkpoint: Path) -> ExportReport:
    """The export of all nine layers of that checkpoint."""
    from .exports import VGGISH_LAYERS, exported

    return exported(shared, "vggish_all", "vggish", vggish_checkpoint, layers=VGGISH_LAYERS)


@pytest.fixture(scope="session")
def ast_classifier() -> torch.nn.Module:
    """transformers' ASTForAudioClassification, FP32."""
    from .oracles import ast

    return ast()


@pytest.fixture(scope="session")
def ast_second(shared: Shared, request: pytest.FixtureRequest) -> ExportReport:
    """The export of its twelve blocks for 1 s, of a file in the original format."""
    from .exports import AST_LAYERS, exported

    def make(folder: Path) -> None:
        import torch

        from .oracles import ast_original_names

        model = request.getfixturevalue("ast_classifier").audio_spectrogram_transformer
        torch.save(ast_original_names(model.state_dict()), folder / "audioset_0.4593.pth")

    checkpoint = shared("ast", make) / "audioset_0.4593.pth"
    return exported(shared, "ast_second", "ast", checkpoint, layers=AST_LAYERS, seconds=1.0)


@pytest.fixture(scope="session")
def layer_study(shared: Shared) -> tuple[Path, str]:
    """The folder and the output of a whole `probe layers`: CNN14, random weights, two tasks."""
    folder = shared("study", _study_layers)
    return folder / "results", (folder / "output.txt").read_text()


def _study_layers(folder: Path) -> None:
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
    (folder / "output.txt").write_text(done.stdout)
