from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_engine import AudioError
from fusion_engine.engine.pieces import core_frames, pieces_of

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
