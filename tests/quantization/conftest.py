"""Specs and artifacts in 8 bits."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fusion_engine.artifact import read_spec
from fusion_engine.quantization import quantize
from fusion_engine.spec import Spec

from ..exports import Shared


@pytest.fixture
def spec(two_layers: Path) -> Spec:
    return read_spec(two_layers)


@pytest.fixture(scope="session")
def eight_bits(shared: Shared, two_layers: Path) -> Callable[[str], Path]:
    """``eight_bits("int8")``: ``two_layers`` in that precision, by synthetic signals."""

    def get(precision: str) -> Path:
        def make(folder: Path) -> None:
            quantize(two_layers, folder / "two.onnx", precision=precision)

        return shared(f"two_layers_{precision}", make) / "two.onnx"

    return get
