"""Linear probes: one linear layer on frozen embeddings, many of them trained in one joint step.

The probes of one seed share their minibatches, so their weights are stacked and one matrix product
serves all learning rates: the rows are gathered once a step instead of once a model, and the
product is wide enough to run at the machine's full speed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._install import install
from ..errors import BackendError

if TYPE_CHECKING:
    import torch

LEARNING_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)
WEIGHT_DECAY = 1e-8
BATCH_SIZE = 200
MAX_EPOCHS = 200
PATIENCE = 20

# A slope so small is nothing beside the term of the weight decay, and the denormal numbers that a
# model which has learnt its examples by heart would multiply make its steps four times slower.
_NEGLIGIBLE = 1e-30

# Rows scored at once: bounds the logits, [rows, L·C].
_SCORED_ROWS = 4096


def import_torch() -> Any:
    """The module ``torch``.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise BackendError(
            f"torch, which trains linear probes, cannot be imported ({error}). "
            f"Install it: {install('probe')}"
        ) from error
    return torch


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearProbe:
    """A trained probe: the logits of x are x · weightᵀ + bias.

    Attributes:
        weight: float32 [C, D], of the best epoch.
        bias: float32 [C], of the best epoch.
        valid_accuracy: of the best epoch, in [0, 1].
        best_epoch: the first with that accuracy, from 1.
        epochs: how many were run.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    valid_accuracy: float
    best_epoch: int
    epochs: int

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """The class [n] of each row of x [n, D], standardised as in training."""
        classes: NDArray[np.int64] = np.argmax(x @ self.weight.T + self.bias, axis=1)
        return classes


class ProbeStack:
    """Linear classifiers that see the same minibatches, one for each learning rate.

    The loss is the cross-entropy, averaged over the minibatch; ``torch.optim.Adam`` updates the
    weights, with weight decay as a term of the gradient. All models start from the same weights,
    distributed as those of ``torch.nn.Linear``: uniform in ±1/√D.

    Args:
        dim: D.
        classes: C.
        learning_rates: one for each of the L models.
        generator: draws the initial weights, on the CPU: a seed means the same on every device.
        device: where the weights are.

    Attributes:
        weight: [L, C, D].
        bias: [L, C].
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        learning_rates: Sequence[float],
        generator: "torch.Generator",
        device: str = "cpu",
    ) -> None:
        self._torch = torch = import_torch()
        bound = dim**-0.5
        weight = torch.empty(classes, dim).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(classes).uniform_(-bound, bound, generator=generator)
        self.weight = weight.to(device).repeat(len(learning_rates), 1, 1)
        self.bias = bias.to(device).repeat(len(learning_rates), 1)
        # Views into the stack: the optimiser's updates in place are updates of the stack.
        self._models = list(zip(self.weight, self.bias, strict=True))
        # The fused kernel passes over the memory once, and has no temporaries.
        self._optimizer = torch.optim.Adam(
            [
                {"params": model, "lr": rate}
                for model, rate in zip(self._models, learning_rates, strict=True)
            ],
            weight_decay=WEIGHT_DECAY,
            fused=True,
        )
        self._attach_gradients()

    def __len__(self) -> int:
        return len(self._models)

    def step(self, x: "torch.Tensor", y: "torch.Tensor") -> None:
        """One step of every model on the minibatch x [n, D] float32, y [n] int64."""
        torch = self._torch
        count, classes, dim = self.weight.shape
        with torch.no_grad():
            # ∂loss/∂logits = (softmax − one-hot) / n.
            slope = self.logits(x).softmax(2)
            index = y[:, None, None].expand(-1, count, 1)
            slope.scatter_add_(2, index, slope.new_full((1, 1, 1), -1.0).expand_as(index))
            slope = torch.hardshrink(slope.div_(len(x)), _NEGLIGIBLE)
            torch.mm(slope.view(len(x), -1).T, x, out=self._weight_grad.view(count * classes, dim))
            torch.sum(slope, 0, out=self._bias_grad)
        self._optimizer.step()

    def logits(self, x: "torch.Tensor") -> "torch.Tensor":
        """[n, L, C] of x [n, D]."""
        count, classes, dim = self.weight.shape
        flat = self._torch.addmm(self.bias.view(-1), x, self.weight.view(count * classes, dim).T)
        return flat.view(-1, count, classes)

    def accuracies(self, x: "torch.Tensor", y: "torch.Tensor") -> list[float]:
        """The accuracy of each model on x [n, D], y [n]."""
        right = sum(
            (self.logits(rows).argmax(2) == labels[:, None]).sum(0)
            for rows, labels in zip(x.split(_SCORED_ROWS), y.split(_SCORED_ROWS), strict=True)
        )
        return [count / len(x) for count in right.tolist()]

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with these models alone; they keep the state of their optimiser."""
        kept = self._torch.tensor(indices, device=self.weight.device, dtype=self._torch.int64)
        self.weight, self.bias = self.weight[kept], self.bias[kept]
        groups = self._optimizer.param_groups
        for index, model in enumerate(self._models):
            if index not in indices:
                for tensor in model:
                    del self._optimizer.state[tensor]
        self._models = [self._models[index] for index in indices]
        self._optimizer.param_groups = [groups[index] for index in indices]
        for place, (weight, bias) in enumerate(self._models):
            weight.data, bias.data = self.weight[place], self.bias[place]
        self._attach_gradients()

    def _attach_gradients(self) -> None:
        self._weight_grad = self._torch.empty_like(self.weight)
        self._bias_grad = self._torch.empty_like(self.bias)
        for place, (weight, bias) in enumerate(self._models):
            weight.grad, bias.grad = self._weight_grad[place], self._bias_grad[place]


class _Run:
    """The training of one seed's probes, with early stopping."""

    def __init__(
        self,
        seed: int,
        x: "torch.Tensor",
        classes: int,
        learning_rates: Sequence[float],
        patience: int,
    ) -> None:
        torch = import_torch()
        self._generator = torch.Generator().manual_seed(seed)
        self.stack = ProbeStack(x.shape[1], classes, learning_rates, self._generator, str(x.device))
        self._patience = patience
        # Index among all models of each that is still in the stack.
        self._active = list(range(len(learning_rates)))
        self._best_weight, self._best_bias = self.stack.weight.clone(), self.stack.bias.clone()
        self._accuracy = [-1.0] * len(learning_rates)
        self._best_epoch = [0] * len(learning_rates)
        self._epochs = [0] * len(learning_rates)

    def batches(self, x: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
        """Indices of an epoch's minibatches, in a new order; the last may be smaller."""
        torch = import_torch()
        order = torch.randperm(len(x), generator=self._generator).to(x.device)
        return tuple(order.split(min(BATCH_SIZE, len(x))))

    def finish_epoch(self, epoch: int, x: "torch.Tensor", y: "torch.Tensor") -> None:
        """Score on the validation set, keep what is best, and let go of what has stopped."""
        going_on = []
        for place, accuracy in enumerate(self.stack.accuracies(x, y)):
            model = self._active[place]
            self._epochs[model] = epoch
            if accuracy > self._accuracy[model]:
                self._accuracy[model], self._best_epoch[model] = accuracy, epoch
                self._best_weight[model].copy_(self.stack.weight[place])
                self._best_bias[model].copy_(self.stack.bias[place])
            if epoch - self._best_epoch[model] < self._patience:
                going_on.append(place)
        if len(going_on) < len(self._active):
            self._active = [self._active[place] for place in going_on]
            self.stack.keep(going_on)

    def probes(self) -> list[LinearProbe]:
        """The best of every model."""
        return [
            LinearProbe(
                weight=weight,
                bias=bias,
                valid_accuracy=self._accuracy[model],
                best_epoch=self._best_epoch[model],
                epochs=self._epochs[model],
            )
            for model, (weight, bias) in enumerate(
                zip(self._best_weight.cpu().numpy(), self._best_bias.cpu().numpy(), strict=True)
            )
        ]


def train_probes(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    valid_x: NDArray[np.float32],
    valid_y: NDArray[np.int64],
    *,
    classes: int,
    seeds: Sequence[int] = SEEDS,
    learning_rates: Sequence[float] = LEARNING_RATES,
    max_epochs: int = MAX_EPOCHS,
    patience: int = PATIENCE,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> list[list[LinearProbe]]:
    """Train a probe for every seed and learning rate, all of them in one joint loop.

    Adam with weight decay 1e-8 and minibatches of min(200, n). A seed is the initial weights and
    the order of the minibatches, which its learning rates share. A model stops when its validation
    accuracy has not risen for ``patience`` epochs, and its best epoch is what is returned. A model
    that has stopped takes no more part in the products; those that go on are not affected but for
    the rounding of a product of another width.

    Args:
        x: training embeddings [n, D], standardised, C-contiguous.
        y: their classes [n], in [0, ``classes``).
        valid_x: validation embeddings [m, D], standardised alike.
        valid_y: their classes [m].
        classes: C.
        seeds: S of them.
        learning_rates: L of them.
        max_epochs: the most passes over ``x``.
        patience: epochs without a better validation accuracy after which a model stops.
        device: where to train, ``cpu`` or a CUDA device of torch's.
        progress: called with the number of each epoch that is done.

    Returns:
        For each seed its probes, in the order of ``learning_rates``. On the CPU the same
        arguments and number of threads give the same bits.

    Raises:
        BackendError: no torch, or it has no such device.
    """
    torch = check_device(device)
    tensors = [torch.from_numpy(array).to(device) for array in (x, y, valid_x, valid_y)]
    train, labels, valid, valid_labels = tensors
    runs = [_Run(seed, train, classes, learning_rates, patience) for seed in seeds]
    rows = torch.empty((min(BATCH_SIZE, len(x)), x.shape[1]), device=train.device)
    for epoch in range(1, max_epochs + 1):
        active = [run for run in runs if len(run.stack)]
        if not active:
            break
        for batches in zip(*[run.batches(train) for run in active], strict=True):
            for run, batch in zip(active, batches, strict=True):
                chosen = torch.index_select(train, 0, batch, out=rows[: len(batch)])
                run.stack.step(chosen, labels[batch])
        for run in active:
            run.finish_epoch(epoch, valid, valid_labels)
        if progress is not None:
            progress(epoch)
    return [run.probes() for run in runs]


def check_device(device: str) -> Any:
    """The module ``torch``, once it is certain that it can train on ``device``.

    Raises:
        BackendError: no torch, or it has no such device.
        ValueError: neither ``cpu`` nor ``cuda`` nor ``cuda:N``.
    """
    torch = import_torch()
    kind, _, number = device.partition(":")
    if device != "cpu" and not (kind == "cuda" and (number.isdecimal() or device == kind)):
        raise ValueError(f"device is {device!r}, expected 'cpu', 'cuda' or 'cuda:N'")
    found = torch.cuda.device_count() if kind == "cuda" else 1
    if int(number or 0) >= found:
        raise BackendError(
            f"device is {device!r}, and torch finds {found or 'no'} CUDA "
            f"device{'' if found == 1 else 's'}. Install a build of torch "
            "for CUDA where there is a GPU, or train on device='cpu'"
        )
    return torch
