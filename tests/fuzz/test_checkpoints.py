from pathlib import Path

from .checkpoints import run


def test_mutated_checkpoints_are_read_or_refused(tmp_path: Path) -> None:
    outcomes = run(300, 0, tmp_path / "failed")
    assert outcomes.keys() == {"read", "refused"}, outcomes
    assert outcomes["read"] > 10
    assert outcomes["refused"] > 100
