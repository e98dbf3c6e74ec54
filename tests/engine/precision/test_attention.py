"""Attention as torch traces its many spellings."""

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.nn import functional as F

from fusion_engine.engine.precision import typed_model
from fusion_engine.engine.precision.attention import balance_attention
from fusion_engine.engine.precision.skeleton import Skeleton
from fusion_engine.export import resolve
from fusion_engine.export.graph import trace_graph

from ...export.structure import spec_of
from .conftest import Case, run

pytestmark = pytest.mark.heavy

HEADS, DIM = 2, 8
Form = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return q @ k.transpose(2, 3)


BIAS = torch.linspace(-1, 1, 96)
# softmax(d^-1/2 q·kᵀ)·v, spelled in the ways that are met.
FORMS: dict[str, Form] = {
    "torch": F.scaled_dot_product_attention,
    "q alone": lambda q, k, v: scores(q * DIM**-0.5, k).softmax(3) @ v,
    "k alone": lambda q, k, v: scores(q, k * DIM**-0.5).softmax(3) @ v,
    "the scores divided": lambda q, k, v: (scores(q, k) / DIM**0.5).softmax(3) @ v,
    "the scores multiplied": lambda q, k, v: (DIM**-0.5 * scores(q, k)).softmax(3) @ v,
    "both and the scores": lambda q, k, v: (scores(q / 2, k / 2) * (4 * DIM**-0.5)).softmax(3) @ v,
    "with a bias": lambda q, k, v: (scores(q, k) / DIM**0.5 + BIAS).softmax(3) @ v,
}
# What must stay as it is: the scale of a sum, no scale at all, a scale of the result.
UNTOUCHED: dict[str, Form] = {
    "the sum divided": lambda q, k, v: ((scores(q, k) + BIAS) / DIM**0.5).softmax(3) @ v,
    "no scale": lambda q, k, v: scores(q, k).softmax(3) @ v,
    "a negative scale": lambda q, k, v: scores(q * -0.5, k).softmax(3) @ v,
    "the result": lambda q, k, v: (scores(q, k).softmax(3) @ v) / 3,
}


def q_read_twice(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q = q * DIM**-0.5
    return scores(q, k).softmax(3) @ v + q


def scores_read_twice(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    raw = scores(q, k)
    return (raw / DIM**0.5).softmax(3) @ v + raw.mean(3, keepdim=True)


UNTOUCHED |= {"q read twice": q_read_twice, "the scores read twice": scores_read_twice}


class Attention(torch.nn.Module):
    def __init__(self, form: Form) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv = torch.nn.Linear(64, 3 * HEADS * DIM)
        self.form = form

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        x = self.qkv(log_mel[:, 0] / 30).unflatten(2, (3, HEADS, DIM))
        return self.form(*x.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2)[:, None]


def traced(form: Form) -> onnx.ModelProto:
    """The graph for log-mel [B, 1, 96, 64]."""
    return trace_graph(Attention(form).eval(), spec_of(resolve("vggish"), (2,)))


def rewritten(model: onnx.ModelProto) -> tuple[int, onnx.ModelProto]:
    skeleton = Skeleton.of(model)
    found = balance_attention(skeleton)
    skeleton.model.graph.initializer.extend(skeleton.initializers.values())
    return found, skeleton.model


def factors(model: onnx.ModelProto) -> list[list[float]]:
    """The constants that q and k are multiplied by, for each product under a softmax."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    producer = {name: node for node in model.graph.node for name in node.output}

    def source(value: str, kind: str) -> onnx.NodeProto:
        node = producer[value]
        return node if node.op_type == kind else source(node.input[0], kind)

    return [
        [
            float(constants[source(name, "Mul").input[1]].item())
            for name in source(softmax.input[0], "MatMul").input
        ]
        for softmax in model.graph.node
        if softmax.op_type == "Softmax"
    ]


@pytest.mark.parametrize("name", list(FORMS))
def test_both_factors_are_scaled_alike(name: str) -> None:
    model = traced(FORMS[name])
    found, balanced = rewritten(model)
    assert found == 1
    onnx.checker.check_model(balanced, full_check=True)
    ((q, k),) = factors(balanced)
    assert q == k == pytest.approx(DIM**-0.25, rel=1e-6)
    log_mel = np.random.default_rng(0).normal(0.0, 30.0, (2, 1, 96, 64)).astype(np.float32)
    (got,), (want,) = run(balanced, log_mel), run(model, log_mel)
    assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max()


@pytest.mark.parametrize("name", list(UNTOUCHED))
def test_what_is_no_scaled_attention_stays(name: str) -> None:
    model = traced(UNTOUCHED[name])
    found, same = rewritten(model)
    assert found == 0
    assert same.graph.node == model.graph.node


def test_ast_has_one_product_a_block(cases: Callable[[str], Case]) -> None:
    found, balanced = rewritten(cases("ast").graph(1, 2))
    assert found == 2
    for pair in factors(balanced):
        assert pair == pytest.approx([math.sqrt(0.125)] * 2, rel=1e-6)


def test_large_products_do_not_overflow() -> None:
    """q·kᵀ is 1e5 and its scaled value fits: dividing the scores in FP16 would be too late."""
    typed = typed_model(traced(FORMS["the scores divided"]), "fp16")
    ((q, k),) = factors(typed)
    assert q == k == float(np.float16(DIM**-0.25))
    assert "Div" not in [n.op_type for n in typed.graph.node[-6:]]
