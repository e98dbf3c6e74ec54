"""Whether a model's activations fit a half precision, judged by what its export measured."""

from __future__ import annotations

from collections.abc import Mapping

from ..._words import listed
from ...errors import NumericalError
from .rounding import Precision

# FP16 ends at 65 504. Verification inputs are not all audio: within half of that a louder or odder
# clip may overflow, and above an eighth it is worth a word.
_REFUSED = 32_000.0
_WARNED = 8_000.0


def check_ranges(activations: Mapping[str, float], precision: Precision) -> list[str]:
    """Warnings about activations that come near the end of the precision's range.

    Only FP16 has one that audio models reach; the others have FP32's.

    Args:
        activations: largest |activation| of each node, as an export's report has them.
        precision: what the model is to run in.

    Raises:
        NumericalError: a value above 32 000 (or not finite), which leaves FP16 no headroom.
    """
    if precision != "fp16":
        return []
    refused = {name: value for name, value in activations.items() if not value <= _REFUSED}
    if refused:
        raise NumericalError(
            f"fp16 ends at 65504, and the largest |activation| is {_largest(refused)}; at most "
            f"{_REFUSED:.0f} is accepted. Build with --precision bf16."
        )
    return [
        f"the largest |activation| of {name} is {value:.0f}, and fp16 ends at 65504: louder audio "
        "may overflow. --precision bf16 has no such limit."
        for name, value in activations.items()
        if value > _WARNED
    ]


def _largest(values: Mapping[str, float]) -> str:
    """Names and values, the largest first."""
    ordered = sorted(values, key=values.__getitem__, reverse=True)
    return listed(ordered, lambda name: f"{values[name]:.0f} at {name}")
