"""Random inputs of layer fusion, and Eq. 1-3 by PyTorch in FP64."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]
HEADS = ["mean_max", "mean", "max"]

# The bound derived in csrc/accumulator.h, of the mean magnitude plus the largest: 7 roundings in a
# block of 8 frames, 3 in the head, and one for all terms of second order.
TOLERANCE = 11 * 2.0**-24

Array = npt.NDArray[Any]


@dataclass
class Case:
    """One call: ``outputs`` are NaN wherever nothing may be read."""

    outputs: list[Array]
    time_pools: list[int]
    offsets: npt.NDArray[np.int64] | None
    begins: npt.NDArray[np.int64] | None
    counts: npt.NDArray[np.int64] | None

    @property
    def ranges(self) -> dict[str, Any]:
        return {"offsets": self.offsets, "begins": self.begins, "counts": self.counts}

    @property
    def segments(self) -> int:
        return int(self.outputs[0].shape[0])

    @property
    def clips(self) -> int:
        return self.segments if self.offsets is None else len(self.offsets) - 1

    @property
    def dim(self) -> int:
        return sum(x.shape[1] * (x.shape[3] if x.ndim == 4 else 1) for x in self.outputs)

    @property
    def frames(self) -> int:
        """T_o."""
        for x, k in zip(self.outputs, self.time_pools, strict=True):
            if x.ndim == 4:
                return int(x.shape[2]) // k
        return 1

    def counted(self, segment: int) -> range:
        begin = 0 if self.begins is None else int(self.begins[segment])
        count = self.frames if self.counts is None else int(self.counts[segment])
        return range(begin, begin + count)

    def clip_segments(self, clip: int) -> range:
        if self.offsets is None:
            return range(clip, clip + 1)
        return range(int(self.offsets[clip]), int(self.offsets[clip + 1]))


def frame_features(case: Case) -> list[npt.NDArray[np.float64]]:
    """Each clip's [D, counted frames], Eq. 1 and 2 by PyTorch in FP64."""
    pooled = []
    for x, k in zip(case.outputs, case.time_pools, strict=True):
        exact = torch.from_numpy(np.ascontiguousarray(x).astype(np.float64))
        if x.ndim == 2:
            pooled.append(exact[:, :, None])
        else:
            # What is not counted is NaN: torch's max-pool keeps it inside its own window.
            flat = F.max_pool2d(exact, (k, 1)).permute(0, 1, 3, 2)
            pooled.append(flat.reshape(x.shape[0], x.shape[1] * x.shape[3], -1))
    clips = []
    for clip in range(case.clips):
        columns = [
            torch.cat([z[s, :, [t if z.shape[2] > 1 else 0]] for z in pooled])
            for s in case.clip_segments(clip)
            for t in case.counted(s)
        ]
        clips.append(torch.cat(columns, dim=1).numpy() if columns else np.empty((case.dim, 0)))
    return clips


def pool_over_time(z: npt.NDArray[np.float64], head: str) -> npt.NDArray[np.float64]:
    """Eq. 3 of one clip, in FP64."""
    mean, peak = z.mean(axis=1), z.max(axis=1)
    return {"mean_max": mean + peak, "mean": mean, "max": peak}[head]


def assert_embeds(embedding: Array, features: Sequence[npt.NDArray[np.float64]], head: str) -> None:
    """``embedding`` is within `TOLERANCE` of the FP64 pooling of ``features``."""
    for got, z in zip(embedding, features, strict=True):
        bound = TOLERANCE * (np.abs(z).mean(axis=1) + np.abs(z).max(axis=1))
        error = np.abs(got - pool_over_time(z, head))
        assert (error <= bound).all(), f"largest error {np.max(error / bound):.3g} of its bound"


def _nchw(shape: tuple[int, ...], dtype: Any) -> Array:
    return np.zeros(shape, dtype)


def _nhwc(shape: tuple[int, ...], dtype: Any) -> Array:
    s, c, t, f = shape
    return np.zeros((s, t, f, c), dtype).transpose(0, 3, 1, 2)


def _time_last(shape: tuple[int, ...], dtype: Any) -> Array:
    s, c, t, f = shape
    return np.zeros((s, c, f, t), dtype).transpose(0, 1, 3, 2)


def _sliced(shape: tuple[int, ...], dtype: Any) -> Array:
    return np.zeros(tuple(2 * n + 1 for n in shape), dtype)[(slice(1, None, 2),) * len(shape)]


def _padded(shape: tuple[int, ...], dtype: Any) -> Array:
    """Contiguous rows that begin off any alignment."""
    return np.zeros(tuple(n + 1 for n in shape), dtype)[(slice(1, None),) * len(shape)]


def _reversed(shape: tuple[int, ...], dtype: Any) -> Array:
    return np.zeros(shape, dtype)[(slice(None, None, -1),) * len(shape)]


MAP_LAYOUTS: list[Callable[..., Array]] = [_nchw, _nhwc, _time_last, _sliced, _padded, _reversed]
VECTOR_LAYOUTS: list[Callable[..., Array]] = [_nchw, _sliced, _padded, _reversed]


@st.composite
def cases(draw: st.DrawFn, max_layers: int = 6) -> Case:
    """Calls whose clips all have a counted frame."""
    kinds = draw(st.lists(st.sampled_from(["map", "vector"]), min_size=1, max_size=max_layers))
    clips = draw(st.integers(1, 3))
    frames = draw(st.one_of(st.just(1), st.integers(2, 40))) if "map" in kinds else 1
    offsets = begins = counts = None
    segments = clips
    if draw(st.booleans()):
        offsets = np.cumsum([0, *(draw(st.integers(1, 4)) for _ in range(clips))], dtype=np.int64)
        segments = int(offsets[-1])
    if draw(st.booleans()):
        begins = np.array([draw(st.integers(0, frames - 1)) for _ in range(segments)], np.int64)
        room = frames if "map" in kinds else 5  # a vector alone is repeated any number of times
        counts = np.array(
            [draw(st.integers(0, room - (int(b) if "map" in kinds else 0))) for b in begins],
            np.int64,
        )
        starts = range(clips) if offsets is None else offsets[:-1]
        counts[starts] = np.maximum(counts[starts], 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    outputs, pools = [], []
    case = Case(outputs, pools, offsets, begins, counts)
    for kind in kinds:
        dtype = draw(st.sampled_from(DTYPES))
        channels = draw(st.sampled_from([1, 2, 3, 5, 8, 16, 24, 33, 64]))
        if kind == "vector":
            pools.append(1)
            shape: tuple[int, ...] = (segments, channels)
            x = draw(st.sampled_from(VECTOR_LAYOUTS))(shape, dtype)
        else:
            pool = draw(st.integers(1, 5))
            pools.append(pool)
            ragged = draw(st.integers(0, pool - 1))
            freq = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 16, 32]))
            shape = (segments, channels, frames * pool + ragged, freq)
            x = draw(st.sampled_from(MAP_LAYOUTS))(shape, dtype)
        x[...] = (rng.standard_normal(shape) * rng.choice([1e-3, 1.0, 100.0])).astype(dtype)
        outputs.append(x)
    _forbid_what_does_not_count(case)
    return case


def _forbid_what_does_not_count(case: Case) -> None:
    for x, k in zip(case.outputs, case.time_pools, strict=True):
        for s in range(case.segments):
            counted = case.counted(s)
            if x.ndim == 2:
                if not counted:
                    x[s] = np.nan
            else:
                x[s, :, : counted.start * k] = np.nan
                x[s, :, counted.stop * k :] = np.nan
