"""Masked attention: the minus infinity of a mask stays finite."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from torch.nn import functional as F

from fusion_engine import NumericalError
from fusion_engine.engine.precision import emulated_model, typed_model

from .conftest import run
from .test_attention import DIM, Form, scores, traced
from .test_error import ROUNDOFF
from .test_graphs import graph_of, relu

pytestmark = pytest.mark.heavy

T = 96
LATER = torch.ones(T, T, dtype=torch.bool).triu(1)
LOWEST = torch.full((T, T), torch.finfo(torch.float32).min).triu(1)


def masked(change: Callable[[torch.Tensor], torch.Tensor]) -> Form:
    return lambda q, k, v: change(scores(q, k) / DIM**0.5).softmax(3) @ v


FORMS: dict[str, Form] = {
    "torch": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "added": masked(lambda x: x + LOWEST),
    "added twice": masked(lambda x: x + LOWEST + LOWEST.flip(0).tril(-70)),
    "multiplied": masked(lambda x: x + LATER.float() * -1e9),
    "in its place": masked(lambda x: x.masked_fill(LATER, -1e9)),
    "infinite": masked(lambda x: x.masked_fill(LATER, -torch.inf)),
}


@pytest.mark.parametrize("name", list(FORMS))
def test_what_is_masked_has_no_weight(name: str) -> None:
    model = traced(FORMS[name])
    log_mel = np.random.default_rng(0).normal(0.0, 30.0, (2, 1, T, 64)).astype(np.float32)
    (want,) = run(model, log_mel)
    for precision in ("fp16", "bf16"):
        (got,) = run(emulated_model(typed_model(model, precision)), log_mel)
        # A dozen roundings; one masked value that counted would be off by a tenth.
        assert np.abs(got - want).max() <= 12 * ROUNDOFF[precision] * np.abs(want).max()
        for tensor in typed_model(model, precision).graph.initializer:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            assert name == "infinite" or np.isfinite(values).all()


def test_a_row_that_is_masked_throughout() -> None:
    """By a finite mask it is the mean of all; minus infinity would make it NaN."""
    never = torch.full((T, T), torch.finfo(torch.float32).min)
    model = traced(masked(lambda x: x + never))
    log_mel = np.random.default_rng(0).normal(0.0, 30.0, (1, 1, T, 64)).astype(np.float32)
    for precision in ("fp16", "bf16"):
        (got,) = run(emulated_model(typed_model(model, precision)), log_mel)
        assert np.isfinite(got).all()


def test_a_mask_that_is_more_than_a_mask_is_refused() -> None:
    nodes = [
        relu(target="x"),
        helper.make_node("Add", ["x", "mask"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"]),
        helper.make_node("Mul", ["x", "mask"], ["product"]),
        helper.make_node("Add", ["weights", "product"], ["layer_1"]),
    ]
    model = graph_of(nodes, mask=np.array([0, 0, 0, -1e9], np.float32))
    with pytest.raises(NumericalError, match=r"fp16 cannot hold these weights: mask \(1e\+09\)"):
        typed_model(model, "fp16")


def test_a_constant_that_is_no_mask_is_refused() -> None:
    model = traced(lambda q, k, v: scores(q, k).softmax(3) @ v - 1e9)
    with pytest.raises(NumericalError, match=r"fp16 cannot hold these weights.*1e\+09"):
        typed_model(model, "fp16")
