"""Layer fusion on the host against PyTorch in FP64: with one time lane, and with a GPU's many."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_engine import _core
from fusion_engine.engine.fusion import FusionState

from .cases import DTYPES, HEADS, Case, assert_embeds, cases, frame_features

# One time lane, as on a CPU, a few, and all 32.
LANES = {"1 lane": 1, "few lanes": 1 << 9, "32 lanes": 1 << 30}
FUSE = {lanes: partial(_core.fuse, target_threads=n) for lanes, n in LANES.items()}
fuse_variants = pytest.mark.parametrize("fuse", FUSE.values(), ids=FUSE.keys())
few = settings(deadline=None, max_examples=100)


@fuse_variants
@few
@given(case=cases(), head=st.sampled_from(HEADS))
def test_embedding(fuse, case: Case, head: str) -> None:
    embedding, flags = fuse(case.outputs, case.time_pools, **case.ranges, head=head)
    assert embedding.dtype == np.float32
    assert_embeds(embedding, frame_features(case), head)
    assert not flags.any()  # nothing that does not count was read: it is NaN


@fuse_variants
@few
@given(case=cases(max_layers=3), data=st.data())
def test_frame_features(fuse, case: Case, data: st.DataObject) -> None:
    features = frame_features(case)
    starts = np.array([data.draw(st.integers(0, 3)) for _ in features], np.int64)
    total = max(s + z.shape[1] for s, z in zip(starts, features, strict=True)) + 2
    frames = np.full((case.clips, case.dim, total), 7.0, np.float32)
    embedding, _ = fuse(
        case.outputs, case.time_pools, **case.ranges, frames=frames, frame_offsets=starts
    )
    for got, start, z in zip(frames, starts, features, strict=True):
        end = start + z.shape[1]
        np.testing.assert_array_equal(got[:, start:end], z.astype(np.float32))
        assert (got[:, :start] == 7.0).all()
        assert (got[:, end:] == 7.0).all()
    plain, _ = fuse(case.outputs, case.time_pools, **case.ranges)
    np.testing.assert_array_equal(embedding, plain)


@fuse_variants
@few
@given(case=cases(), value=st.sampled_from([np.nan, np.inf, -np.inf]), data=st.data())
def test_non_finite_value_is_flagged(fuse, case: Case, value: float, data: st.DataObject) -> None:
    clip = data.draw(st.integers(0, case.clips - 1))
    layer = data.draw(st.integers(0, len(case.outputs) - 1))
    segment = data.draw(st.sampled_from([s for s in case.clip_segments(clip) if case.counted(s)]))
    x, k = case.outputs[layer], case.time_pools[layer]
    index = [segment, data.draw(st.integers(0, x.shape[1] - 1))]
    if x.ndim == 4:
        counted = case.counted(segment)
        index += [
            data.draw(st.integers(counted.start * k, counted.stop * k - 1)),
            data.draw(st.integers(0, x.shape[3] - 1)),
        ]
    x[tuple(index)] = value
    _, flags = fuse(case.outputs, case.time_pools, **case.ranges)
    expected = np.zeros(case.clips, np.uint32)
    expected[clip] = 1 << layer
    np.testing.assert_array_equal(flags, expected)


@few
@given(case=cases())
def test_a_clip_alone_is_bit_equal_to_the_clip_in_a_batch(case: Case) -> None:
    together, _ = _core.fuse(case.outputs, case.time_pools, **case.ranges)
    for clip in range(case.clips):
        segments = case.clip_segments(clip)
        part = slice(segments.start, segments.stop)
        alone, _ = _core.fuse(
            [x[part] for x in case.outputs],
            case.time_pools,
            offsets=np.array([0, len(segments)], np.int64),
            begins=None if case.begins is None else case.begins[part],
            counts=None if case.counts is None else case.counts[part],
        )
        np.testing.assert_array_equal(alone[0], together[clip])


@pytest.mark.parametrize("dtype", [d for d in DTYPES if np.dtype(d).itemsize == 2])
def test_every_16_bit_value_converts_exactly(dtype) -> None:
    """A vector's embedding under ``max`` is the value itself."""
    bits = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    finite = bits[np.isfinite(bits.astype(np.float32))]
    for fuse in FUSE.values():
        for outputs in ([finite[None]], [finite.reshape(1, -1, 1, 16)]):
            embedding, flags = fuse(outputs, [1], head="max")
            np.testing.assert_array_equal(embedding[0], finite.astype(np.float32))
            assert not flags.any()


@pytest.mark.parametrize("shape", [(256, 125, 8, 4), (2048, 31, 2, 1), (64, 500, 32, 16)])
@pytest.mark.parametrize("layout", ["float32 NCHW", "float16 HWC8"])
@fuse_variants
def test_the_shapes_of_cnn14(fuse, layout: str, shape: tuple[int, ...]) -> None:
    """The paths that real inputs take, at full size; HWC8 is what TensorRT writes."""
    channels, time, freq, pool = shape
    rng = np.random.default_rng(0)
    if layout == "float32 NCHW":
        x = rng.random((2, channels, time, freq), np.float32)
    else:
        rows = rng.random((2, time, freq, channels), np.float32).astype(np.float16)
        x = rows.transpose(0, 3, 1, 2)
    case = Case([x], [pool], None, None, None)
    embedding, _ = fuse(case.outputs, case.time_pools)
    assert_embeds(embedding, frame_features(case), "mean_max")


@pytest.mark.parametrize("target_threads", LANES.values(), ids=LANES.keys())
@few
@given(case=cases(), head=st.sampled_from(HEADS), data=st.data())
def test_any_split_over_calls(
    target_threads: int, case: Case, head: str, data: st.DataObject
) -> None:
    """Each call counts a part of every segment's range; frame features land side by side."""
    features = frame_features(case)
    state = FusionState.empty(case.clips, case.dim)
    frames = np.full((case.clips, case.dim, max(z.shape[1] for z in features)), 7.0, np.float32)
    written = np.zeros(case.clips, np.int64)
    done = np.zeros(case.segments, np.int64)
    totals = np.array([len(case.counted(s)) for s in range(case.segments)], np.int64)
    begins = np.array([case.counted(s).start for s in range(case.segments)], np.int64)
    # Frame features are in time order, so a segment's frames go before the next segment's.
    for segment in range(case.segments):
        while done[segment] < totals[segment]:
            counts = np.zeros(case.segments, np.int64)
            counts[segment] = data.draw(st.integers(1, int(totals[segment] - done[segment])))
            _core.accumulate(
                case.outputs,
                case.time_pools,
                offsets=case.offsets,
                begins=begins + done,
                counts=counts,
                **vars(state),
                frames=frames,
                frame_offsets=written,
                target_threads=target_threads,
            )
            done += counts
            for clip in range(case.clips):
                written[clip] += sum(counts[s] for s in case.clip_segments(clip))
    assert_embeds(_core.finalize(**state.totals, head=head), features, head)
    np.testing.assert_array_equal(state.count, [z.shape[1] for z in features])
    assert not state.flags.any()
    for got, z in zip(frames, features, strict=True):
        np.testing.assert_array_equal(got[:, : z.shape[1]], z.astype(np.float32))
