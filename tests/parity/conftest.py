"""Checkpoints and exports that the certificates are about, each made once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch

from fusion_engine.export import ExportReport, export, resolve
from fusion_engine.parity import Signal
from fusion_engine.spec import METADATA_KEY, Spec

from ..exports import Shared, change_spec, with_layers

# A quarter of a second needs padding; the other is ragged, and two segments of AST.
SHORT = (Signal(kind="tone", seconds=0.25), Signal(kind="speech", seconds=1.3579))


@dataclass(frozen=True)
class Exported:
    artifact: Path
    weights: Path


@pytest.fixture(scope="session")
def cnn14(
    cnn14_fusion: ExportReport, panns_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    """CNN14-Fusion: layers 3 and 6. Clips of more than 3.2 s run in chunks."""
    artifact = tmp_path_factory.mktemp("cnn14") / "cnn14.onnx"
    yield Exported(change_spec(cnn14_fusion.path, artifact, max_frames=320), panns_checkpoint)
    artifact.unlink()  # 310 MB, and pytest keeps the folders of the last runs


@pytest.fixture(scope="session")
def early(
    cnn14_all: ExportReport, panns_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """CNN14's layers 1 and 3, where what is asked does not depend on the deeper ones."""
    artifact = tmp_path_factory.mktemp("early") / "cnn14.onnx"
    with_layers(cnn14_all.path, artifact, [1, 3], max_frames=320)
    return Exported(artifact, panns_checkpoint)


@pytest.fixture(scope="session")
def vggish(shared: Shared) -> Exported:
    """Layers 10, 13 and 15, the last two of one shape; of a checkpoint without what follows."""

    def make(folder: Path) -> None:
        state = resolve("vggish").random_state(0)
        convolutions = {n: tensor for n, tensor in state.items() if n.startswith("features.")}
        torch.save(convolutions, folder / "vggish.pth")
        export(
            "vggish",
            folder / "vggish.onnx",
            weights=folder / "vggish.pth",
            layers=[10, 13, 15],
        )

    folder = shared("parity_vggish", make)
    return Exported(folder / "vggish.onnx", folder / "vggish.pth")


@pytest.fixture(scope="session")
def ast(shared: Shared) -> Exported:
    """Blocks 1 and 3 on 128 frames."""

    def make(folder: Path) -> None:
        # A checkpoint file is read faster than random weights are made.
        torch.save(resolve("ast").random_state(0), folder / "ast.pth")
        export("ast", folder / "ast.onnx", weights=folder / "ast.pth", layers=[1, 3], frames=128)

    folder = shared("parity_ast", make)
    return Exported(folder / "ast.onnx", folder / "ast.pth")


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
