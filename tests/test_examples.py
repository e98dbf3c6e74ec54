import runpy
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fusion_engine.audio import find_audio, load

EXAMPLES = Path(__file__).parents[1] / "examples"
MAKE = runpy.run_path(str(EXAMPLES / "make_clips.py"))


@pytest.mark.parametrize("name", sorted(MAKE["CLIPS"]))
def test_the_script_makes_the_clips(name):
    clip, rate = soundfile.read(EXAMPLES / f"{name}.wav", dtype="int16")
    assert rate == MAKE["RATE"]
    made = MAKE["pcm"](MAKE["CLIPS"][name]())
    # One step of 16 bits, where another NumPy rounds a sine differently.
    np.testing.assert_allclose(made.astype(int), clip, rtol=0, atol=1)


def test_all_clips_load():
    clips = find_audio([EXAMPLES]).paths
    assert len(clips) == len(MAKE["CLIPS"]) + 2
    for clip in clips:
        samples = load(clip, 16_000).samples
        assert 3 * 16_000 <= samples.size <= 5 * 16_000
        assert 0.5 < np.abs(samples).max() <= 1
