"""Checkpoints and exports that the certificates are about, each made once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch

from fusion_engine.export import export, resolve
from fusion_engine.parity import Signal
from fusion_engine.spec import METADATA_KEY, Spec

# A quarter of a second needs padding; the other is ragged, and two segments of AST.
SHORT = (Signal(kind="tone", seconds=0.25), Signal(kind="speech", seconds=1.3579))


@dataclass(frozen=True)
class Exported:
    artifact: Path
    weights: Path


def _exported(folder: Path, model: str, **choices: object) -> Exported:
    """Random weights as a checkpoint file, which is read faster than it is made, and its export."""
    weights, artifact = folder / f"{model}.pth", folder / f"{model}.onnx"
    torch.save(resolve(model).random_state(0), weights)
    export(model, artifact, weights=weights, **choices)
    return Exported(artifact, weights)


@pytest.fixture(scope="session")
def cnn14(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """CNN14-Fusion: layers 3 and 6. Clips of more than 3.2 s run in chunks."""
    made = _exported(tmp_path_factory.mktemp("cnn14"), "cnn14", frames=320)
    yield made
    made.weights.unlink()  # 320 MB, and pytest keeps the folders of the last runs
    made.artifact.unlink()


@pytest.fixture(scope="session")
def early(cnn14: Exported, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """CNN14's layers 1 and 3, where what is asked does not depend on the deeper ones."""
    artifact = tmp_path_factory.mktemp("early") / "cnn14.onnx"
    export("cnn14", artifact, weights=cnn14.weights, layers=[1, 3], frames=320)
    return Exported(artifact, cnn14.weights)


@pytest.fixture(scope="session")
def vggish(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """Layers 10, 13 and 15, the last two of one shape."""
    made = _exported(tmp_path_factory.mktemp("vggish"), "vggish", layers=[10, 13, 15])
    yield made
    made.weights.unlink()
    made.artifact.unlink()


@pytest.fixture(scope="session")
def ast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """Blocks 1 and 3 on 128 frames."""
    made = _exported(tmp_path_factory.mktemp("ast"), "ast", layers=[1, 3], frames=128)
    yield made
    made.weights.unlink()
    made.artifact.unlink()


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """``edited(artifact, edit)`` applies ``edit`` to a copy of its ``ModelProto``."""

    def write(artifact: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
        model = onnx.load(artifact)
        edit(model)
        path = tmp_path / artifact.name
        onnx.save_model(model, path)
        return path

    return write


def edit_spec(model: onnx.ModelProto, change: Callable[[Spec], Spec]) -> None:
    """Replace the spec in the metadata."""
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    entry.value = change(Spec.from_json(entry.value)).to_json()
