"""Copies of a caller's module: on the CPU, in evaluation mode, in one precision throughout."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ExportError
from .foreign import foreign

if TYPE_CHECKING:
    import torch

    Change = Callable[[torch.Tensor], torch.Tensor]


def copied(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """A copy on the CPU, in evaluation mode, with all that floats in ``dtype``.

    Tensors that are neither parameters nor buffers are taken along: those that ``weight_norm``
    computes, which ``deepcopy`` refuses after a backward pass, and those kept as plain attributes,
    which ``Module.to`` leaves where they are.

    Raises:
        ExportError: the module cannot be copied, or its parameters have no values yet.
    """
    import torch

    name = type(module).__name__
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if torch.nn.parameter.is_lazy(tensor):
            raise ExportError(f"{key} of {name} has no shape yet: run the module once, then export")
        if tensor.is_meta:
            raise ExportError(f"{key} of {name} is on the meta device: load the weights first")

    def changed(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)

    memo: dict[int, Any] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_leaf:
            memo[id(tensor)] = tensor.detach().clone()
        return tensor

    with foreign(f"{name} cannot be copied"):
        _each_plain_tensor(module, note)
        result = copy.deepcopy(module, memo).to("cpu").to(dtype).eval()
        _each_plain_tensor(result, changed)
    return result


def _each_plain_tensor(module: torch.nn.Module, change: Change) -> None:
    """Replace each tensor in the plain attributes, and in their lists and dicts."""
    for part in module.modules():
        values = vars(part)
        for name, value in list(values.items()):
            # Parameters, buffers and submodules are kept in dicts of these names.
            if name not in ("_parameters", "_buffers", "_modules"):
                new = _replaced(value, change)
                if new is not value:
                    values[name] = new


def _replaced(value: Any, change: Change) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) is dict:
        items = {key: _replaced(item, change) for key, item in value.items()}
        return items if any(items[key] is not value[key] for key in items) else value
    if type(value) in (list, tuple):
        new = [_replaced(item, change) for item in value]
        return (
            type(value)(new) if any(a is not b for a, b in zip(new, value, strict=True)) else value
        )
    return value


@contextmanager
def computing_in_fp64() -> Iterator[None]:
    """What this thread's PyTorch code makes in a lower precision becomes FP64.

    A forward that makes a tensor by itself, ``torch.zeros(…)`` or ``x.float()``, would otherwise
    mix types, which products refuse.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    low = (torch.float32, torch.float16, torch.bfloat16)

    def raised(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.double() if value.dtype in low else value
        if type(value) in (list, tuple):
            return type(value)(raised(item) for item in value)
        return value

    class Mode(TorchFunctionMode):  # type: ignore[misc]  # torch is not type-checked
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return raised(func(*args, **(kwargs or {})))

    with Mode(), torch.inference_mode():
        yield
