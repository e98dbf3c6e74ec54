"""The cases of the probe suite: all seeds and learning rates at once, and one model at a time."""

import functools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fusion_engine.probe import Example, Task, evaluate
from fusion_engine.probe.linear import (
    BATCH_SIZE,
    LEARNING_RATES,
    SEEDS,
    WEIGHT_DECAY,
    ProbeStack,
)
from fusion_engine.probe.tasks.base import Split

from .harness import AnswerCheck, Case, Measurement, PeerComparison, WrongAnswerError, calls
from .machine import ROOT, peak_gib, usable_cores

THREADS = usable_cores()
# The embeddings of a large task by the fused CNN14.
EXAMPLES, DIM, CLASSES = 20_000, 6144, 50
# Minibatches that every model sees in one call.
STEPS = 5
# Of the largest logit: Adam divides by the root of the squared gradient, so that a gradient near
# zero makes a step as large as any other, whose sign hangs on rounding. Seen: 9e-6.
SAME_STEPS = 1e-4
MAX_GIB = 4.0

Model = tuple[torch.nn.Linear, torch.optim.Adam]


def cases() -> tuple[Case, ...]:
    """All of them, in the order of the report. Gives PyTorch its number of threads."""
    torch.set_num_threads(THREADS)
    size = f"{EXAMPLES} × {DIM}, {CLASSES} classes"
    probes = len(SEEDS) * len(LEARNING_RATES)
    return (
        Case("probe-steps", f"{STEPS} steps of {probes} linear probes, {size}", steps),
        Case("probe-whole", f"a whole linear evaluation, {size}", whole),
    )


def steps(folder: Path) -> list[PeerComparison]:
    """The same minibatches for the same models, against PyTorch with two kernels of its Adam."""
    x, y = (torch.from_numpy(array) for array in generated(EXAMPLES, DIM, CLASSES))
    return [
        compare(x, y, f"PyTorch, one by one{name}", fused)
        for name, fused in (("", None), (", fused Adam", True))
    ]


def compare(
    x: torch.Tensor, y: torch.Tensor, name: str, fused: bool | None, classes: int = CLASSES
) -> PeerComparison:
    """A comparison on preloaded tensors; the models go on from where they are at every call."""
    batches = [
        torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).split(BATCH_SIZE)[
            :STEPS
        ]
        for seed in SEEDS
    ]
    stacks = [
        ProbeStack(x.shape[1], classes, LEARNING_RATES, torch.Generator().manual_seed(seed))
        for seed in SEEDS
    ]
    models = [[linear(stack, i, fused) for i in range(len(LEARNING_RATES))] for stack in stacks]
    rows = torch.empty(BATCH_SIZE, x.shape[1])

    def joint() -> None:
        for chosen in zip(*batches, strict=True):
            for stack, batch in zip(stacks, chosen, strict=True):
                stack.step(torch.index_select(x, 0, batch, out=rows), y[batch])

    def one_by_one() -> None:
        for group, chosen in zip(models, batches, strict=True):
            for model, optimizer in group:
                for batch in chosen:
                    optimizer.zero_grad()
                    torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                    optimizer.step()

    def check() -> AnswerCheck:
        joint()
        one_by_one()
        error = 0.0
        with torch.no_grad():
            for stack, group in zip(stacks, models, strict=True):
                got = stack.logits(x[:BATCH_SIZE])
                expected = torch.stack([model(x[:BATCH_SIZE]) for model, _ in group], dim=1)
                scale = expected.abs().amax(dim=(0, 2))
                error = max(error, float(((got - expected).abs().amax(dim=(0, 2)) / scale).max()))
        return AnswerCheck("largest difference / largest logit of a model", error, SAME_STEPS)

    return PeerComparison(calls("fusion_engine, joint", joint), calls(name, one_by_one), check)


def linear(stack: ProbeStack, index: int, fused: bool | None) -> Model:
    """PyTorch's own layer and optimiser, starting where a model of ``stack`` is."""
    classes, dim = stack.weight.shape[1:]
    model = torch.nn.utils.skip_init(torch.nn.Linear, dim, classes)
    with torch.no_grad():
        model.weight.copy_(stack.weight[index])
        model.bias.copy_(stack.bias[index])
    optimizer = torch.optim.Adam(
        model.parameters(), lr=LEARNING_RATES[index], weight_decay=WEIGHT_DECAY, fused=fused
    )
    return model, optimizer


def whole(folder: Path) -> list[Measurement]:
    """Standardisation, training with early stopping and test, in a process of its own."""

    def measure() -> dict[str, float]:
        program = "from benchmarks.cases_probe import evaluate_here; evaluate_here()"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        )
        measured: dict[str, float] = json.loads(done.stdout)
        if measured["peak_gib"] > MAX_GIB:
            raise WrongAnswerError(
                f"probe-whole: its memory peaks at {measured['peak_gib']:.2f} GiB, at most "
                f"{MAX_GIB:g} are allowed"
            )
        return measured

    return [Measurement("fusion_engine", measure)]


def evaluate_here() -> None:
    """Evaluate, and print what it took and found."""
    torch.set_num_threads(THREADS)
    x, y = generated(EXAMPLES, DIM, CLASSES)
    names = [f"{label:02}" for label in range(CLASSES)]
    splits: list[Split] = ["train"] * 8 + ["valid", "test"]
    task = Task(
        name="generated",
        title="generated",
        seconds=None,
        classes=tuple(names),
        examples=tuple(
            Example(path=Path(f"{number}.wav"), label=names[label], split=splits[number % 10])
            for number, label in enumerate(y.tolist())
        ),
    )
    start = time.perf_counter()
    result = evaluate(task, x)
    seconds = time.perf_counter() - start
    (training,) = result.folds
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak_gib": peak_gib(),
                "accuracy": result.accuracy,
                "epochs": max(training.epochs),
            }
        )
    )


@functools.cache
def generated(
    examples: int, dim: int, classes: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings [N, D] around the centres of their classes, which overlap, and the classes [N]."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, examples)
    centres = rng.standard_normal((classes, dim), np.float32) * np.float32(3.5 / dim**0.5)
    x = rng.standard_normal((examples, dim), np.float32)
    for first in range(0, examples, 1000):
        x[first : first + 1000] += centres[y[first : first + 1000]]
    return x, y
