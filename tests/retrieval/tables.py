"""Tables of generated embeddings."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion_engine.output import Row, open_writer
from fusion_engine.spec import LayerSpec, Spec

from ..test_output import SPEC


def spec_of(dim: int) -> Spec:
    """A spec of embeddings of ``dim`` values."""
    layer = LayerSpec(number=1, kind="map", channels=dim, freq=1, time_pool=16)
    return replace(SPEC, layers=(layer,), embedding_dim=dim)


def write_table(
    path: Path,
    embeddings: NDArray[Any],
    *,
    rows: Sequence[Row] | None = None,
    dtype: Any = "float32",
    spec: Spec | None = None,
) -> Path:
    """The embeddings [n, D] as rows of clips of a second."""
    embeddings = embeddings.astype(np.float32)
    rows = rows or [Row(path=f"{n}.wav", end=1.0, duration=1.0) for n in range(len(embeddings))]
    channels = rows[0].channel is not None
    spec = spec or spec_of(embeddings.shape[1])
    with open_writer(path, spec, channels=channels, dtype=dtype) as writer:
        writer.write(rows, embeddings)
    return path


def clustered(rows: int, dim: int, *, latent: int = 6, seed: int = 0) -> NDArray[np.float32]:
    """Embeddings [n, D] around 20 centres of a space of few dimensions, with noise."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, latent))[rng.integers(0, 20, rows)]
    points = (centres + 0.5 * rng.standard_normal((rows, latent))) @ rng.standard_normal(
        (latent, dim)
    )
    return (points + 0.1 * rng.standard_normal((rows, dim))).astype(np.float32)
