"""Profiles, by hand from the frontends' count of frames."""

from dataclasses import replace

import pytest

from fusion_engine.engine.tensorrt.profile import make_profile, profiles_of
from fusion_engine.frontend.frontend_spec import FRONTENDS
from fusion_engine.spec import SegmentRule

from ..cuda.artifacts import RAGGED
from .test_network_name import spec

VGGISH = spec(
    model="vggish",
    frontend=FRONTENDS["vggish"],
    frames_per_step=16,
    segment=SegmentRule(frames=96, last="drop"),
    min_frames=96,
    max_frames=96,
)


@pytest.mark.parametrize(
    ("given", "asked", "batch", "frames"),
    [
        (spec(), {}, (1, 8, 32), (32, 1001, 6001)),
        (spec(max_frames=501), {}, (1, 8, 32), (32, 501, 501)),
        (spec(max_frames=60_001), {}, (1, 8, 32), (32, 1001, 6001)),
        (spec(), {"seconds": (0.31, 1, 2.5)}, (1, 8, 32), (32, 101, 251)),
        (spec(), {"frames": (64, 64, 64), "batch": (4, 4, 4)}, (4, 4, 4), (64, 64, 64)),
        # 400 samples give the first frame, 160 more each further one.
        (spec(frontend=FRONTENDS["ast"]), {"seconds": (1, 1, 1)}, (1, 8, 32), (98, 98, 98)),
        (VGGISH, {}, (1, 8, 32), (96, 96, 96)),
        (VGGISH, {"frames": (96, 96, 96)}, (1, 8, 32), (96, 96, 96)),
    ],
)
def test_profiles(given, asked, batch, frames):
    profile = make_profile(given, **asked)
    assert (profile.batch.triple, profile.frames.triple) == (batch, frames)
    assert profile.shapes(64) == tuple((b, 1, t, 64) for b, t in zip(batch, frames, strict=True))


@pytest.mark.parametrize(
    ("given", "asked", "words"),
    [
        (spec(), {}, ["batch 8, frames 1001", "batch 1:8:32, frames 32:1001:6001"]),
        (VGGISH, {}, ["batch 8, frames 96", "batch 1:8:32, frames 96:96:96"]),
        # The static one is all that was asked for.
        (spec(), {"batch": (4, 4, 4), "frames": (64, 64, 64)}, ["batch 4, frames 64"]),
        (
            spec(),
            {"batch": (4, 4, 4)},
            ["batch 4, frames 1001", "batch 4:4:4, frames 32:1001:6001"],
        ),
    ],
)
def test_the_tightest_profile_is_first(given, asked, words):
    profile = make_profile(given, **asked)
    profiles = profiles_of(profile, static=True)
    assert [str(one) for one in profiles] == words
    assert all(profile.contains(one) for one in profiles)
    assert profiles_of(profile, static=False) == profiles[-1:] == (profile,)
    if len(profiles) == 2:
        assert not profiles[0].contains(profile)


@pytest.mark.parametrize(
    ("given", "asked", "message"),
    [
        (spec(), {"frames": (31, 64, 64)}, r"31 frames \(0.3 s\): .* at least 32 frames \(0.31 s"),
        (spec(), {"seconds": (0.3, 1, 2)}, r"a minimum of 31 frames"),
        (spec(), {"frames": (32, 64, 6002)}, r"at most 6001 frames \(60 s\)"),
        (spec(), {"frames": (64, 32, 64)}, r"frames 64:32:64: expected MIN:OPT:MAX"),
        (spec(), {"batch": (0, 1, 2)}, r"batch 0:1:2: expected MIN:OPT:MAX"),
        (spec(), {"batch": (1, 2)}, r"batch 1:2: expected MIN:OPT:MAX"),
        (spec(), {"seconds": (1, 2, float("nan"))}, r"expected lengths from 0 to 86400"),
        (spec(), {"seconds": (1, 2, 1e308)}, r"expected lengths from 0 to 86400"),
        (spec(), {"seconds": (1, 2, 3), "frames": (32, 64, 96)}, r"give one of them"),
        (VGGISH, {"frames": (96, 96, 192)}, r"takes segments of 96 frames and no other"),
    ],
)
def test_what_is_refused(given, asked, message):
    with pytest.raises(ValueError, match=message):
        make_profile(given, **asked)


def test_the_length_named_as_enough_is_enough():
    """The first length to the hundredth of a second whose frames suffice."""
    short = replace(spec(), min_frames=98, frontend=FRONTENDS["ast"])
    with pytest.raises(ValueError, match=r"at least 98 frames \(1 s\)"):
        make_profile(short, seconds=(0.9, 2, 3))
    assert make_profile(short, seconds=(1, 2, 3)).frames.min == 98


def test_a_masked_plan_is_tuned_for_the_bucket_of_the_most_common_length():
    """Which is what clips of that length run at: the static profile is then theirs."""
    frames = make_profile(RAGGED, frames=(32, 301, 600)).frames
    assert frames.triple == (32, 320, 600)
    assert make_profile(RAGGED, frames=(32, 590, 600)).frames.triple == (32, 600, 600)
