from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_engine import ArtifactError, AudioError
from fusion_engine.engine.cut import Piece, Runs, core_frames, most_frames, pieces_of
from fusion_engine.frontend import FRONTENDS, Frontend
from fusion_engine.spec import LayerSpec, SegmentRule

from ..test_spec import SPEC

STEP = 32


def test_a_short_clip_is_one_piece():
    for frames in (32, 63, 1001, SPEC.max_frames):
        (piece,) = pieces_of(SPEC, frames)
        assert (piece.start, piece.stop, piece.begin, piece.count) == (0, frames, 0, frames // 32)


@given(
    frames=st.integers(400, 400_000),
    max_frames=st.integers(288, 6001),
    margin=st.sampled_from([32, 64, 128]),
)
def test_chunks_count_every_frame_feature_once(frames, max_frames, margin):
    spec = replace(SPEC, max_frames=max_frames, chunk_margin=margin)
    pieces = pieces_of(spec, frames)
    counted = []
    for index, piece in enumerate(pieces):
        assert piece.frames <= max_frames
        assert piece.start % STEP == 0
        assert piece.count >= 1
        first = piece.start // STEP + piece.begin
        counted.append(np.arange(first, first + piece.count))
        # The counted frames keep the margin to every edge that is not the clip's own.
        if index > 0:
            assert first * STEP - piece.start == min(margin, first * STEP)
        if piece.stop < frames:
            assert piece.stop - (first + piece.count) * STEP >= margin
    assert np.array_equal(np.concatenate(counted), np.arange(frames // STEP))
    assert pieces[0].start == 0
    assert pieces[-1].stop == frames
    # No two chunks are in one run: the joining of layer outputs builds on it.
    runs = Runs(spec, most_frames(spec)).of(spec.frontend.samples(frames), ended=True)
    assert all(len(run.pieces) == 1 for run in runs)


def test_no_chunk_is_shorter_than_the_graph_takes():
    spec = replace(SPEC, max_frames=1000, min_frames=900, chunk_margin=128)
    pieces = pieces_of(spec, 1500)
    assert [piece.frames for piece in pieces] == [900, 924]
    first, last = pieces
    assert last.start % STEP == 0
    # What it counts begins where the first chunk's ends.
    assert last.start // STEP + last.begin == first.count
    assert first.count + last.count == 1500 // STEP


def test_core_of_a_chunk():
    assert core_frames(1001, 128, 32) == 736
    assert core_frames(287, 128, 32) == 0
    assert core_frames(288, 128, 32) == 32


def test_no_room_for_a_chunk():
    spec = replace(SPEC, max_frames=287)
    with pytest.raises(AudioError, match="at least 288 frames"):
        pieces_of(spec, 1001)


def test_a_clip_that_cannot_be_cut_is_refused():
    spec = replace(SPEC, chunk_margin=None)
    with pytest.raises(AudioError, match=r"hour\.wav: 6002 frames \(60\.0 s\).*larger --seconds"):
        pieces_of(spec, 6002, name="hour.wav")


VGGISH = replace(
    SPEC,
    frontend=FRONTENDS["vggish"],
    segment=SegmentRule(frames=96, last="drop"),
    frames_per_step=16,
    chunk_margin=None,
    min_frames=96,
    max_frames=96,
)
AST = replace(
    SPEC,
    frontend=FRONTENDS["ast"],
    segment=SegmentRule(frames=1024, last="pad"),
    layers=(LayerSpec(number=5, kind="vector", channels=768),),
    embedding_dim=768,
    frames_per_step=None,
    chunk_margin=None,
    min_frames=1024,
    max_frames=1024,
)


def test_an_incomplete_segment_is_dropped_but_for_the_only_one():
    for frames, count in ((96, 1), (191, 1), (192, 2), (1000, 10)):
        pieces = pieces_of(VGGISH, frames)
        assert pieces == [Piece(96 * i, 96 * (i + 1), 0, 6) for i in range(count)]


def test_an_incomplete_segment_is_padded_and_weighs_less():
    assert pieces_of(AST, 1) == [Piece(0, 1024, 0, 1)]
    assert pieces_of(AST, 1024) == [Piece(0, 1024, 0, 1)]
    assert pieces_of(AST, 1025) == [Piece(0, 1024, 0, 1024), Piece(1024, 2048, 0, 1)]


def test_runs_hold_neighbours_of_one_length():
    samples = VGGISH.frontend.samples(96 * 150)
    runs = list(Runs(VGGISH, most_frames(VGGISH)).of(samples, ended=True))
    assert [len(run.pieces) for run in runs] == [62, 62, 26]
    assert [run.first for run in runs] == [0, 62 * 96 * 160, 124 * 96 * 160]
    assert [run.pieces[-1].stop for run in runs] == [62 * 96, 62 * 96, 26 * 96]


REFLECTED = replace(
    AST,
    frontend=SPEC.frontend,
    segment=SegmentRule(frames=100, last="pad"),
    min_frames=100,
    max_frames=100,
)


@settings(max_examples=60)
@given(data=st.data(), spec=st.sampled_from([SPEC, VGGISH, AST, REFLECTED]))
def test_runs_do_not_depend_on_how_a_clip_becomes_known(data, spec):
    if spec is SPEC:
        spec = replace(spec, max_frames=data.draw(st.integers(288, 1001)), min_frames=200)
    most = spec.max_frames * (1 if spec.segment is None else 3)
    total = data.draw(st.integers(1, 2_000_000))
    known = sorted(data.draw(st.lists(st.integers(1, total), max_size=20)))
    whole = list(Runs(spec, most).of(total, ended=True))
    runs, got = Runs(spec, most), []
    for samples, ended in [*((n, False) for n in known), (total, True)]:
        first = runs.first
        for run in runs.of(samples, ended=ended):
            assert run.first >= first
            assert ended or run.stop <= samples
            got.append(run)
    assert got == whole


@pytest.mark.parametrize("spec", [SPEC, VGGISH, AST, REFLECTED], ids=lambda spec: spec.model)
@pytest.mark.parametrize("total", [40_000, 300_001, 480_000])
def test_the_log_mel_of_a_run_is_that_of_the_clip(spec, total):
    spec = replace(spec, max_frames=1001) if spec is SPEC else spec
    frontend = Frontend(spec.frontend)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, total).astype(np.float32)
    whole = frontend(x)
    pieces = pieces_of(spec, len(whole))
    seen = []
    for run in Runs(spec, 3 * spec.max_frames).of(total, ended=True):
        log_mel = frontend(x[run.first : run.stop])
        for piece in run.pieces:
            expected = pieces[len(seen)]
            seen.append((piece.begin, piece.count, piece.frames))
            there = whole[expected.start : expected.stop]
            part = log_mel[piece.start : piece.stop]
            np.testing.assert_allclose(part[: len(there)], there, rtol=0, atol=2e-6)
            assert len(part) == len(there)
    assert seen == [(piece.begin, piece.count, piece.frames) for piece in pieces]


def test_frame_rates():
    assert VGGISH.frame_rate == 6.25
    assert AST.frame_rate == 100 / 1024


def test_steps_that_convolutions_round_up():
    """Two strided convolutions with padding: 1001 frames are 251 steps."""
    dynamic = replace(SPEC, chunk_margin=None, frames_per_step=4, step_offset=3)
    for frames in range(32, 80):
        assert pieces_of(dynamic, frames) == [Piece(0, frames, 0, -(-frames // 4))]
    fixed = replace(
        dynamic,
        segment=SegmentRule(frames=1001, last="pad"),
        min_frames=1001,
        max_frames=1001,
    )
    assert pieces_of(fixed, 1500) == [Piece(0, 1001, 0, 251), Piece(1001, 2002, 0, 251)]
    assert fixed.frame_rate == 25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_offset": -1}, "with step_offset -1, and the shortest input has 32 frames"),
        ({"step_offset": -(10**30)}, "step_offset is -1.*, expected -13"),
        ({"step_offset": 10**30}, "step_offset is 1.*, expected -13"),
        ({"step_offset": 3, "chunk_margin": 128}, "chunks have no step_offset"),
    ],
)
def test_steps_that_cannot_be(change, message):
    with pytest.raises(ArtifactError, match=message):
        replace(SPEC, **{"chunk_margin": None} | change)
