import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fusion_engine.export import ExportReport, export

from ..oracles import panns_checkpoint, panns_cnn14

ALL_LAYERS = (7, 3, 1, 6, 5, 2, 4)


@pytest.fixture(scope="session")
def panns_16k() -> torch.nn.Module:
    return panns_cnn14(16_000)


@pytest.fixture(scope="session")
def panns_16k_fp64(panns_16k: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(panns_16k).double()


@pytest.fixture(scope="session")
def checkpoint(
    panns_16k: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Weights saved as PANNs published theirs: not zipped, the sampler's arrays beside them."""
    path = tmp_path_factory.mktemp("checkpoint") / "Cnn14_16k.pth"
    torch.save(panns_checkpoint(panns_16k), path, _use_new_zipfile_serialization=False)
    yield path
    path.unlink()  # 320 MB, and pytest keeps the folders of the last runs


@pytest.fixture(scope="session")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExportReport]:
    """All seven layers, in an order of its own."""
    path = tmp_path_factory.mktemp("artifact") / "cnn14.onnx"
    yield export("cnn14", path, layers=ALL_LAYERS, weights=checkpoint)
    path.unlink()
