from typing import Any

import pytest
import torch

from fusion_engine import ExportError
from fusion_engine.export.checkpoint import fit_tensors

# Two blocks of one kind, so that a third is one too many.
SHAPES = {"a.w": (2, 3), "b1": (4,), "b2": (4,), "c": ()}


def fitting() -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in SHAPES.items()}


def test_what_was_asked_for_is_returned(caplog: pytest.LogCaptureFixture) -> None:
    state = {**fitting(), "head.weight": torch.ones(1), "bn.num_batches_tracked": torch.tensor(1)}
    assert fit_tensors(state, SHAPES, ignored=("head.",)).keys() == SHAPES.keys()
    del state["c"]
    assert fit_tensors(state, SHAPES, optional=["c"], ignored=("head.",)).keys() == {
        *("a.w", "b1", "b2")
    }
    assert caplog.text == ""


def test_heads_are_left_out_aloud(caplog: pytest.LogCaptureFixture) -> None:
    heads = {"fc_transfer.weight": torch.ones(9), "fc_transfer.bias": torch.ones(1), "x": None}
    assert fit_tensors({**fitting(), **heads}, SHAPES).keys() == SHAPES.keys()
    assert "fc_transfer, x of the checkpoint: not the model's own, taken for heads" in caplog.text
    caplog.clear()
    fit_tensors({**fitting(), **{f"x{i}": torch.ones(1) for i in range(8)}}, SHAPES)
    assert "x0, x1, x2, x3, x4, x5 and 2 more parts of the checkpoint" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_fit(dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in fitting().items()}
    assert fit_tensors(state, SHAPES)["c"].dtype == dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a.w": None, "b1": None}, "2 missing: a.w, b1.*--key.*--prefix"),
        ({"a.x": torch.ones(1)}, "1 surplus: a.x"),
        ({"b3": torch.ones(1), "x": torch.ones(1)}, "1 surplus: b3"),
        ({"a.w": torch.zeros(3, 2)}, r"1 of a wrong shape: a.w is \[3, 2\], expected \[2, 3\]"),
        ({"a.w": torch.zeros(2, 3, 1)}, r"a.w is \[2, 3, 1\]"),
        ({"a.w": torch.ones(()).expand(10**5, 10**6)}, r"a.w is \[100000, 1000000\]"),
        (
            {"b1": torch.zeros(4, dtype=torch.int64)},
            r"1 no plain floating-point tensors: b1 \(torch.int64\)",
        ),
        ({"a.w": torch.zeros(2, 3).to_sparse()}, "no plain floating-point tensors: a.w"),
        ({"a.w": torch.zeros(2, 3, device="meta")}, "no plain floating-point tensors: a.w"),
        ({"b1": torch.tensor([0, float("nan"), 0, 0])}, "1 not finite: b1"),
        ({"c": torch.tensor(float("inf"))}, "1 not finite: c"),
        ({"c": torch.tensor(1e39, dtype=torch.float64)}, "1 not finite: c"),
        (
            {"a.w": None, "x": torch.ones(1), "c": torch.ones(1)},
            "missing: a.w; .*surplus: x; .*c is",
        ),
        (
            {f"a.{i}": torch.ones(1) for i in range(9)},
            "9 surplus: a.0, a.1, a.2, a.3, a.4, a.5 and 3 mo",
        ),
        ({"a.\x1b[2J" + 200 * "x": torch.ones(1)}, r"surplus: 'a.\\x1b\[2Jx{90,94}…?"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_listed(change: dict[str, Any], message: str) -> None:
    state = {k: v for k, v in {**fitting(), **change}.items() if v is not None}
    with pytest.raises(ExportError, match=message):
        fit_tensors(state, SHAPES)
