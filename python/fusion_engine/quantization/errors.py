"""What 8 bits lose: of layer outputs, of each product, and of embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..spec import Spec
from .calibration import values_of
from .placement import Placement, Product

if TYPE_CHECKING:
    import onnx

    from ..engine import Engine


class Losses:
    """Relative L2 errors of an 8-bit graph against the FP32 one, over some inputs.

    Attributes:
        layers: of each layer output, in the spec's order.
        products: what each adds to the error of its input, the largest first: the square root of
            the difference of squares.
    """

    def __init__(
        self,
        exact: onnx.ModelProto,
        rounded: onnx.ModelProto,
        placement: Placement,
        inputs: Iterable[NDArray[np.float32]],
        spec: Spec,
    ) -> None:
        names = [layer.name for layer in spec.layers]
        for product in placement.products:
            names += [product.source, product.output]
        names = list(dict.fromkeys(names))
        both = [values_of(model, names, spec) for model in (exact, rounded)]
        squares = {name: [0.0, 0.0] for name in names}
        for log_mel in inputs:
            wanted, found = (run(log_mel) for run in both)
            for name, sums in squares.items():
                sums[0] += _square(found[name] - wanted[name])
                sums[1] += _square(wanted[name])
        error = {
            name: math.sqrt(lost / all_) if all_ else 0.0 for name, (lost, all_) in squares.items()
        }
        self.layers = {layer.name: error[layer.name] for layer in spec.layers}

        def added(product: Product) -> float:
            return math.sqrt(max(0.0, error[product.output] ** 2 - error[product.source] ** 2))

        # In the graph's order where they are equal.
        ordered = sorted(placement.products, key=lambda product: -added(product))
        self.products = {product.name: added(product) for product in ordered}


def _square(values: NDArray[np.float32]) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def embedding_error(
    exact: NDArray[np.float32], engine: Engine, clips: Sequence[NDArray[np.float32]]
) -> float:
    """The largest relative L2 error of a clip's embedding.

    Args:
        exact: embeddings [n, D] of the FP32 artifact.
        engine: of the 8-bit one.
        clips: the n clips.
    """
    lost = np.linalg.norm(engine.embed(list(clips)).astype(np.float64) - exact, axis=1)
    return float((lost / np.maximum(np.linalg.norm(exact.astype(np.float64), axis=1), 1e-30)).max())
