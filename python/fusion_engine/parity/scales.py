"""The scales of an 8-bit artifact against what they were made from.

A scale that is wrong in one channel of many hardly shows in an embedding. So each is compared with
its own numbers: a weight's with the folded FP32 weight, an activation's with the range that
calibration found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..engine.precision.eight_bits import PEAKS_KEY

if TYPE_CHECKING:
    import onnx

# A scale has eight binary digits, and the last is rounded up.
_COARSER = 1 + 2.0**-7
# The least scale that is written, FP16's least number with all its digits.
_LEAST = 2.0**-14
# The largest numbers of INT8 and FP8 (E4M3) that are used.
_LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}


def scale_problems(
    model: onnx.ModelProto, weights: Mapping[str, NDArray[np.float32]]
) -> Iterator[str]:
    """What is wrong, a sentence for each weight and activation.

    Args:
        model: what ``fusion-engine quantize`` wrote.
        weights: the FP32 tensors that its graph was made of, by name.
    """
    import onnx

    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    peaks: dict[str, float] = {}
    for entry in model.metadata_props:
        if entry.key == PEAKS_KEY:
            peaks = json.loads(entry.value)
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero = (tensors[name] for name in node.input[1:3])
        if np.any(zero.astype(np.float32)):
            yield f"{node.output[0]}: its zero point is not 0"
        if node.op_type == "QuantizeLinear":
            name = node.input[0]
            if name not in peaks:
                yield f"activation {name}: no range of it is recorded"
            elif not _fits(scale, peaks[name], zero.dtype):
                yield (
                    f"activation {name}: its scale is {float(scale):.3g}, and the range that "
                    f"calibration found asks for {peaks[name] / _LARGEST[str(zero.dtype)]:.3g}"
                )
        elif node.input[0] in tensors:
            (axis,) = (attribute.i for attribute in node.attribute if attribute.name == "axis")
            values = tensors[node.input[0]]
            yield from _weight(node.output[0], values, scale, axis, weights.get(node.output[0]))


def _weight(
    name: str,
    values: NDArray[Any],
    scale: NDArray[np.float32],
    axis: int,
    exact: NDArray[np.float32] | None,
) -> Iterator[str]:
    if exact is None or exact.shape != values.shape:
        yield f"weight {name}: the model has none of that name and shape"
        return
    rows = np.moveaxis(values, axis, 0).astype(np.float32).reshape(len(scale), -1)
    wanted = np.moveaxis(exact, axis, 0).reshape(len(scale), -1)
    steps = scale[:, None].astype(np.float32)
    allowed: Any = steps / 2
    if values.dtype != np.int8:  # half of a last digit, of small numbers a fixed one
        allowed = np.maximum(np.abs(wanted) * 2.0**-4, steps * 2.0**-10)
    off = (np.abs(rows * steps - wanted) > 1.001 * allowed).any(axis=1)
    off |= ~_fits(scale, np.abs(wanted).max(axis=1), values.dtype)
    channels = np.flatnonzero(off)
    if channels.size:
        shown = ", ".join(map(str, channels[:3])) + (", …" if channels.size > 3 else "")
        yield f"weight {name}: not the model's, to its 8 bits, in output channel {shown}"


def _fits(scale: Any, peak: Any, dtype: Any) -> Any:
    """Whether the largest number is the peak, or a little more."""
    least = np.maximum(np.divide(peak, _LARGEST[str(dtype)]), _LEAST)
    return (scale >= least * (1 - 1e-5)) & (scale <= least * _COARSER * (1 + 1e-5))
