"""Whether a checkpoint's tensors are those of a model."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ..._words import listed
from ...errors import ExportError
from .pickles import shown

if TYPE_CHECKING:
    import torch

    from ..backbones.base import Tensors

logger = logging.getLogger(__name__)


def fit_tensors(
    state: Tensors,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    optional: Collection[str] = (),
    ignored: tuple[str, ...] = (),
) -> dict[str, torch.Tensor]:
    """The tensors of ``state`` that ``shapes`` names, once all of them fit.

    Tensors of parts that the model does not have are taken for heads of another training: they are
    named in a warning and not looked at.

    Args:
        state: a checkpoint's tensors.
        shapes: names and shapes of the model's tensors.
        optional: names that may be missing.
        ignored: prefixes of names that may be there and are not looked at.

    Raises:
        ExportError: lists missing and surplus names, wrong shapes and types, and values that are
            not finite in FP32.
    """
    missing = [name for name in shapes if name not in state and name not in optional]
    surplus = [
        name
        for name in state
        if name not in shapes
        and not name.startswith(ignored)
        and not name.endswith(".num_batches_tracked")
    ]
    found = {name: state[name] for name in shapes if name in state}
    wrong = [
        f"{name} is {list(tensor.shape)}, expected {list(shapes[name])}"
        for name, tensor in found.items()
        if tuple(tensor.shape) != shapes[name]
    ]
    # Of a model that does not fit, what else is there is worth saying.
    heads = set() if missing or wrong else _of_other_parts(surplus, shapes)
    typed = [
        f"{name} ({tensor.dtype})" for name, tensor in found.items() if not _is_floating(tensor)
    ]
    # Values are looked at once the shapes are right: what a file states can be of any size.
    infinite = [
        name
        for name, tensor in found.items()
        if not wrong and not typed and not bool(tensor.float().isfinite().all())
    ]
    problems = [
        *_problem("missing", missing),
        *_problem("surplus", [name for name in surplus if name not in heads]),
        *_problem("of a wrong shape", wrong),
        *_problem("no plain floating-point tensors", typed),
        *_problem("not finite", infinite),
    ]
    if problems:
        hint = (
            ". Where the file holds it among others, --key names the entry and --prefix what the "
            "names begin with"
        )
        raise ExportError(
            f"the tensors do not fit: {'; '.join(problems)}. Give a checkpoint of this very model"
            f"{hint if missing else ''}"
        )
    if heads:
        parts = dict.fromkeys(_part(name) for name in surplus)
        logger.warning(
            "%s of the checkpoint: not the model's own, taken for heads and left out",
            listed(parts, shown, more="more parts"),
        )
    return found


def _part(name: str) -> str:
    return name.partition(".")[0]


def _of_other_parts(names: Iterable[str], shapes: Iterable[str]) -> set[str]:
    """Those of ``names`` that belong to no part that ``shapes`` has, or has several alike of."""
    own = {_part(name) for name in shapes}
    alike = Counter(part.rstrip("0123456789") for part in own)
    return {
        name
        for name in names
        if _part(name) not in own and alike[_part(name).rstrip("0123456789")] < 2
    }


def _is_floating(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` has values that arithmetic can use: real, dense, on the CPU."""
    import torch

    types = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    return tensor.dtype in types and tensor.layout == torch.strided and not tensor.is_meta


def _problem(what: str, items: list[str]) -> Iterator[str]:
    if items:
        yield f"{len(items)} {what}: {listed(items, shown)}"
