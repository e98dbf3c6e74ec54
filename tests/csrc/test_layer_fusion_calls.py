"""Layer fusion on the host: long clips in several calls, threads, and arguments that do not fit.

The numbers themselves are tested in test_layer_fusion.py.
"""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fusion_engine import _core
from fusion_engine.engine.fusion import FusionState

# What the design allows any two ways of splitting a clip to differ, of the largest value.
SPLIT_TOLERANCE = 1e-6
LONG = 11_000  # frames: an hour of CNN14


def _signal(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if kind == "constant":  # a plain FP32 sum of it drifts in one direction
        return np.full(shape, 1 / 3, np.float32)
    if kind == "uniform":
        return rng.random(shape, np.float32)
    return np.exp(3 * rng.standard_normal(shape)).astype(np.float32)


def _accumulate(state: FusionState, *arguments: Any, **ranges: Any) -> None:
    _core.accumulate(*arguments, **ranges, **state.totals, flags=state.flags)


def _lengths(kind: str, rng: np.random.Generator) -> list[int]:
    if kind == "single frames":
        return [1] * LONG
    if kind == "chunks":
        return [182] * (LONG // 182) + [LONG % 182]
    cuts = np.sort(rng.choice(np.arange(1, LONG), 40, replace=False))
    return np.diff([0, *cuts, LONG]).tolist()


@pytest.mark.parametrize("lengths", ["single frames", "chunks", "random"])
@pytest.mark.parametrize("signal", ["constant", "uniform", "lognormal"])
def test_a_long_clip_in_calls_equals_one_shot(signal: str, lengths: str) -> None:
    rng = np.random.default_rng(0)
    x = _signal(signal, rng, (1, 4, LONG * 2, 8))
    y = _signal(signal, rng, (1, 16, LONG, 2))
    once, _ = _core.fuse([x, y], [2, 1])
    state = FusionState.empty(1, once.shape[1])
    begin = 0
    for length in _lengths(lengths, rng):
        end = begin + length
        _accumulate(state, [x[:, :, 2 * begin : 2 * end], y[:, :, begin:end]], [2, 1])
        begin = end
    assert state.count[0] == LONG
    difference = np.abs(_core.finalize(**state.totals) - once).max() / np.abs(once).max()
    assert difference <= SPLIT_TOLERANCE, f"{difference:.2g}"


def test_threads_do_not_change_a_bit() -> None:
    rng = np.random.default_rng(0)
    outputs = [
        rng.random((20, 256, 125, 8), np.float32),  # three threads' worth
        rng.random((20, 2048, 31, 2), np.float32),
        rng.random((20, 33), np.float32),
    ]
    frames = [np.zeros((20, 2048 + 4096 + 33, 31), np.float32) for _ in range(3)]
    results = [_core.fuse(outputs, [4, 1, 1], threads=n + 1, frames=frames[n]) for n in range(3)]
    for (embedding, flags), buffer in zip(results[1:], frames[1:], strict=True):
        np.testing.assert_array_equal(embedding, results[0][0])
        np.testing.assert_array_equal(flags, results[0][1])
        np.testing.assert_array_equal(buffer, frames[0])


def test_flags_of_several_calls_add_up() -> None:
    x = np.zeros((2, 4, 8, 2), np.float32)
    v = np.zeros((2, 3), np.float32)
    state = FusionState.empty(2, 11)
    x[0, 1, 2, 1] = np.inf
    _accumulate(state, [x, v], [1, 1])
    x[0, 1, 2, 1] = 0
    v[1, 2] = np.nan
    _accumulate(state, [x, v], [1, 1])
    np.testing.assert_array_equal(state.flags, [1, 2])


def test_a_call_may_count_no_frame_of_a_clip() -> None:
    x = np.ones((2, 4, 8, 2), np.float32)
    state = FusionState.empty(2, 8)
    _accumulate(state, [x], [1], counts=np.array([0, 8]))
    with pytest.raises(ValueError, match="clip 0 has no counted frame"):
        _core.finalize(**state.totals)
    _accumulate(state, [x], [1], counts=np.array([8, 0]))
    np.testing.assert_array_equal(_core.finalize(**state.totals), np.full((2, 8), 2.0))


MAP = np.zeros((2, 4, 8, 2), np.float32)
VECTOR = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("error", "match", "outputs", "time_pools", "options"),
    [
        (ValueError, "got 0 outputs", [], [], {}),
        (ValueError, "got 33 outputs", [VECTOR] * 33, [1] * 33, {}),
        (ValueError, "got 1 time_pools for 2 outputs", [MAP, MAP], [1], {}),
        (TypeError, r"outputs\[0\] is a <class 'list'>", [[1.0]], [1], {}),
        (TypeError, "float64", [MAP.astype(np.float64)], [1], {}),
        (TypeError, "native byte order", [MAP.astype(">f4")], [1], {}),
        (ValueError, r"\(2, 4, 8\); expected a map", [MAP[..., 0]], [1], {}),
        (ValueError, "0 channels", [MAP[:, :0]], [1], {}),
        (ValueError, "1 segments, outputs.0. has 2", [MAP, MAP[:1]], [1, 1], {}),
        (ValueError, r"time_pools\[0\] is 0", [MAP], [0], {}),
        (ValueError, "time_pool -1", [MAP], [-1], {}),
        (ValueError, "vector and has time_pool 2", [VECTOR], [2], {}),
        (ValueError, "T_o = 8 // 2 = 4, outputs.0. has 8", [MAP, MAP], [1, 2], {}),
        (ValueError, "clip 0 has no counted frame", [MAP], [9], {}),
        (ValueError, "clip 1 has no counted frame", [MAP], [1], {"counts": np.array([1, 0])}),
        (ValueError, "head is 'median'", [MAP], [1], {"head": "median"}),
        (ValueError, "threads is 0", [MAP], [1], {"threads": 0}),
        (ValueError, "offsets run from 0 to 1", [MAP], [1], {"offsets": np.array([0, 1])}),
        (ValueError, "offsets decrease", [MAP], [1], {"offsets": np.array([0, 3, 2])}),
        (ValueError, "offsets is empty", [MAP], [1], {"offsets": np.array([], np.int64)}),
        (ValueError, "one dimension", [MAP], [1], {"offsets": np.array([[0, 2]])}),
        (TypeError, "expected integers", [MAP], [1], {"offsets": np.array([0.0, 2.0])}),
        (ValueError, r"expected \[2\]", [MAP], [1], {"counts": np.array([1])}),
        (ValueError, "at least 0", [MAP], [1], {"begins": np.array([-1, 0])}),
        (ValueError, "at least 0", [VECTOR], [1], {"counts": np.array([1, -1])}),
        (ValueError, "T_o = 8", [MAP], [1], {"begins": np.array([0, 1])}),
        (ValueError, "T_o = 8", [MAP], [1], {"counts": np.array([9, 1])}),
        (ValueError, "frame_offsets without", [MAP], [1], {"frame_offsets": np.array([0, 0])}),
        (ValueError, "holds 7", [MAP], [1], {"frames": np.zeros((2, 8, 7), np.float32)}),
        (
            ValueError,
            "clip 1 writes 8 frame features at 1",
            [MAP],
            [1],
            {"frames": np.zeros((2, 8, 8), np.float32), "frame_offsets": np.array([0, 1])},
        ),
        (ValueError, "expected float32", [MAP], [1], {"frames": np.zeros((2, 9, 8), np.float32)}),
        (TypeError, "C-contiguous", [MAP], [1], {"frames": np.zeros((2, 8, 8))}),
        (TypeError, "C-contiguous", [MAP], [1], {"frames": np.zeros((8, 8, 2), np.float32).T}),
    ],
)
def test_arguments_that_do_not_fit(error, match, outputs, time_pools, options) -> None:
    with pytest.raises(error, match=match):
        _core.fuse(outputs, time_pools, **options)


def test_a_state_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"sum is float32 \(2, 9\); expected float32 \(2, 8\)"):
        _accumulate(FusionState.empty(2, 9), [MAP], [1])
    state = FusionState.empty(2, 8)
    state.max.flags.writeable = False
    with pytest.raises(TypeError, match="expected a writable C-contiguous array"):
        _accumulate(state, [MAP], [1])


def test_read_only_outputs_are_read_in_place() -> None:
    x = np.ones((1, 2, 4, 2), ml_dtypes.bfloat16)
    x.flags.writeable = False
    embedding, _ = _core.fuse([x], [2])
    np.testing.assert_array_equal(embedding, np.full((1, 4), 2.0))


def test_a_failed_call_leaves_the_state_alone() -> None:
    state = FusionState.empty(2, 8)
    with pytest.raises(ValueError, match="T_o"):
        _accumulate(state, [MAP + 1], [1], counts=np.array([1, 9]))
    assert not state.sum.any()
    assert not state.count.any()
