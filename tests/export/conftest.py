import copy
from pathlib import Path

import pytest
import torch

from fusion_engine.export import ExportReport

from ..exports import CNN14_LAYERS as ALL_LAYERS  # noqa: F401  # of `artifact`


@pytest.fixture(scope="session")
def panns_16k_fp64(panns_16k: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(panns_16k).double()


@pytest.fixture(scope="session")
def checkpoint(panns_checkpoint: Path) -> Path:
    return panns_checkpoint


@pytest.fixture(scope="session")
def artifact(cnn14_all: ExportReport) -> ExportReport:
    """All seven layers, in an order of its own."""
    return cnn14_all
