import pytest

from fusion_engine import NumericalError
from fusion_engine.engine.precision import check_ranges


def test_small_values_pass_without_a_word() -> None:
    assert check_ranges({"conv_block1.conv1": 12.5, "fc1": 8000.0}, "fp16") == []


def test_values_near_the_end_are_named() -> None:
    (warning,) = check_ranges({"conv_block1.conv1": 12.5, "blocks.3.mlp.fc2 (sum)": 8123.4}, "fp16")
    assert "blocks.3.mlp.fc2 (sum) is 8123" in warning
    assert "--precision bf16" in warning


@pytest.mark.parametrize("value", [32_001.0, 1e9, float("inf"), float("nan")])
def test_values_beyond_it_are_refused(value: float) -> None:
    with pytest.raises(NumericalError, match=rf"{value:.0f} at fc1.*--precision bf16"):
        check_ranges({"conv_block1.conv1": 9000.0, "fc1": value}, "fp16")


def test_the_largest_of_many_are_named_first() -> None:
    values = {f"conv{i}": 40_000.0 + i for i in range(9)}
    with pytest.raises(NumericalError, match=r"40008 at conv8, 40007 at conv7.* and 3 more"):
        check_ranges(values, "fp16")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_other_precisions_have_the_range_of_fp32(precision: str) -> None:
    assert check_ranges({"fc1": 1e9}, precision) == []
