"""How far a reader has to walk: the files that a warm call goes through."""

import sys
from pathlib import Path

import numpy as np

import fusion_engine as fe

from .. import signals
from .cuda.artifacts import CHUNKED, write_artifact

ROOT = f"{Path(fe.__file__).parent}/"


def walk(call):
    """The files of the package that a call is in, in turn."""
    files = []

    def note(frame, event, _):
        if event == "return":
            frame = frame.f_back
        elif event != "call":
            return
        while frame is not None and not frame.f_code.co_filename.startswith(ROOT):
            frame = frame.f_back
        if frame is not None and (not files or files[-1] != frame.f_code.co_filename):
            files.append(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return files


def test_a_warm_call_on_the_cpu_is_a_short_walk(tmp_path):
    engine = fe.Engine(write_artifact(tmp_path / "any.onnx", CHUNKED), device="cpu", threads=1)
    clip = signals.tone(2.0, engine.sample_rate)
    expected = engine.embed(clip)
    got = []
    files = walk(lambda: got.append(engine.embed(clip)))
    assert np.array_equal(got[0], expected)
    names = [file.removeprefix(ROOT) for file in files]
    assert names[0] == "engine/engine.py"
    assert set(names) >= {"engine/clips.py", "engine/cut.py", "engine/cpu.py", "engine/onnx.py"}
    assert len(set(names)) <= 8, sorted(set(names))
    assert len(names) - 1 <= 25, names
