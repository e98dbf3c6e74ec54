"""Analysis windows in FP64."""

import numpy as np
from numpy.typing import NDArray

from .frontend_spec import FrontendSpec


def analysis_window(spec: FrontendSpec) -> NDArray[np.float64]:
    """The Hann window [win_length], periodic or symmetric (``scipy.signal.get_window``)."""
    period = spec.win_length - (spec.window == "hann_symmetric")
    turn = 2.0 * np.pi / period
    return np.asarray(0.5 - 0.5 * np.cos(turn * np.arange(spec.win_length)))
