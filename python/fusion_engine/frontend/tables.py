"""The settings and tables that the CUDA frontend makes of a spec."""

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .frontend_spec import FrontendSpec
from .mel import filter_bank
from .window import analysis_window

if TYPE_CHECKING:
    from .. import _core


def frontend_tables(
    spec: FrontendSpec,
    *,
    affine: NDArray[np.float32] | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
) -> "_core.FrontendTables":
    """What the kernel reads, for ``_core.log_mel_cuda`` and ``_core.log_mel_on_host_grid``.

    Args:
        spec: the frontend.
        affine: [2, n_mels], a scale and an offset of each mel bin, applied last.
        dtype: what the result is then rounded to.

    Raises:
        ValueError: settings that the kernel does not compute (an FFT that is not a power of two
            between 128 and 2048): the CPU's ``Frontend`` takes them.
    """
    # Here, so that specs are read where the native module does not load.
    from .. import _core

    return _core.FrontendTables(
        n_fft=spec.n_fft,
        hop_length=spec.hop_length,
        padding=spec.padding,
        remove_dc=spec.remove_dc,
        preemphasis=spec.preemphasis,
        spectrum=spec.spectrum,
        log=spec.log,
        log_offset=spec.log_offset,
        mean=spec.mean,
        std=spec.std,
        window=analysis_window(spec),
        filters=filter_bank(spec),
        affine=affine,
        out_dtype=dtype,
    )
