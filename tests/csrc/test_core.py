"""The native module itself."""

import fusion_engine
from fusion_engine import _core


def test_the_version_is_the_packages() -> None:
    assert _core.__version__ == fusion_engine.__version__


def test_cuda_architectures() -> None:
    """Machine code for the GPUs in use, and PTX for those that come after each of them."""
    machine_code = {f"sm_{n}" for n in (75, 80, 86, 89, 90, 100, 120)}
    ptx = {f"compute_{n}" for n in (80, 90, 120)}
    expected = machine_code | ptx if _core.cuda_enabled else set()
    assert set(_core.cuda_architectures()) == expected
