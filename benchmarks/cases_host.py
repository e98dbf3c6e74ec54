"""The cases of the host suite: what a warm call on a GPU takes of the CPU, on the double of a GPU.

The graph's launch and the wait for it do nothing here: what is timed is everything else.
"""

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion_engine import Engine, _core
from tests import signals
from tests.engine.cuda.artifacts import CHUNKED, write_artifact

from .harness import SAMPLE_SECONDS, AnswerCheck, Case, Contender, PeerComparison, Sampler

RATE = CHUNKED.frontend.sample_rate
# One run takes 64 clips of 10 s.
WIDE = replace(CHUNKED, max_frames=1_200)
PROFILE = ((1, 1, 32, 64), (1, 1, 1_001, 64), (64, 1, 1_200, 64))
OURS = "fusion_engine"
CHECKED, COPIED, ONE_BY_ONE = "checked first, in NumPy", "an ordinary array", "one run at a time"
Audio = NDArray[Any] | list[NDArray[Any]]
# Calls until the shape has its graph.
RECORDING_CALLS = 3


def cases() -> tuple[Case, ...]:
    """All of them, in the order of the report."""
    return (
        Case("host-1s-b1", "host's CPU time, 1 s", partial(warm, 1, 1, np.float32)),
        Case("host-10s-b1", "host's CPU time, 10 s", partial(warm, 1, 10, np.float32)),
        Case("host-10s-b1-int16", "the same of int16", partial(warm, 1, 10, np.int16)),
        Case(
            "host-10s-b64", "host's CPU time, 64 clips of 10 s", partial(warm, 64, 10, np.float32)
        ),
        Case(
            "host-10s-list64",
            "the same, a list of arrays",
            partial(warm, 64, 10, np.float32, given=separate),
        ),
        Case(
            "host-10s-b64-input",
            "the same, in an array of `engine.input`",
            partial(warm, 64, 10, np.float32, given=pinned, name=COPIED),
        ),
        Case(
            "host-1s-list256",
            "a list of 256 arrays of 1 s, in four runs",
            partial(warm, 256, 1, np.float32, given=separate, name=ONE_BY_ONE),
        ),
    )


def plain(engine: Engine, clips: NDArray[Any]) -> Audio:
    """An array [N] or [B, N]."""
    return clips[0] if len(clips) == 1 else clips


def separate(engine: Engine, clips: NDArray[Any]) -> Audio:
    """An array for each clip."""
    return [clip.copy() for clip in clips]


def pinned(engine: Engine, clips: NDArray[Any]) -> Audio:
    """The engine's own page-locked array."""
    array = engine.input(len(clips), clips.shape[1] / RATE)
    array[:] = clips
    return array


def warm(
    batch: int,
    seconds: int,
    dtype: type,
    folder: Path,
    *,
    given: Callable[[Engine, NDArray[Any]], Audio] = plain,
    name: str = CHECKED,
) -> list[PeerComparison]:
    """A warm call of what ``given`` makes, against another way to the same embeddings.

    The peer's samples are checked before, on the way of all audio; or, by its name, they are an
    ordinary array, or its engine has one context.
    """
    import pytest

    from tests.engine.cuda.engines import open_as_plan, put_double_in_place
    from tests.engine.cuda.tensorrt_double import TensorRT

    clips = np.stack([signals.noise(seconds, RATE, seed) for seed in range(batch)])
    if dtype is np.int16:
        clips = np.round(clips * 32_767).astype(np.int16)
    path = folder / "wide.onnx"
    if not path.exists():
        write_artifact(path, WIDE)
    with pytest.MonkeyPatch.context() as patch:
        machine = put_double_in_place(patch)
        # A peer without a graph would time the double's network.
        ours, peer = (
            open_as_plan(
                path, folder, TensorRT(machine, profiles=[PROFILE]), patch, contexts=contexts
            )
            for contexts in (2, 1 if name == ONE_BY_ONE else 2)
        )
    if name == CHECKED:
        peer._runner.checks_samples = False
    peer_audio = plain(peer, clips) if name == COPIED else given(peer, clips)
    both = {OURS: (ours, given(ours, clips)), name: (peer, peer_audio)}

    def check() -> AnswerCheck:
        for _ in range(RECORDING_CALLS):
            got, expected = (engine.embed(audio) for engine, audio in both.values())
        return AnswerCheck("largest difference", float(np.abs(got - expected).max()), 0.0)

    def figures() -> dict[str, Any]:
        calls = {
            who: python_calls(partial(engine.embed, audio)) for who, (engine, audio) in both.items()
        }
        for engine, _ in both.values():
            engine.close()
        return {"python_calls": calls}

    contenders = (
        Contender(who, partial(cpu_sampler, engine, audio)) for who, (engine, audio) in both.items()
    )
    return [PeerComparison(*contenders, check, figures)]


def cpu_sampler(engine: Engine, audio: Audio) -> Sampler:
    """CPU time of this thread in a warm call, in seconds, with the GPU's part left out."""
    leave_out_the_gpu(engine)
    engine.embed(audio)

    def mean(repeats: int) -> float:
        start = time.thread_time()
        for _ in range(repeats):
            engine.embed(audio)
        return (time.thread_time() - start) / repeats

    repeats = max(1, round(SAMPLE_SECONDS / max(mean(3), 1e-6)))
    return lambda: mean(repeats)


def leave_out_the_gpu(engine: Engine) -> None:
    """Let the driver do nothing: this function of the C library takes anything and returns 0."""
    address = ctypes.cast(ctypes.CDLL(None).pthread_condattr_destroy, ctypes.c_void_p).value
    assert address is not None
    names = ("cuCtxPushCurrent", "cuCtxPopCurrent", "cuMemcpyHtoDAsync", "cuGraphLaunch")
    driver = _core.Driver(
        **dict.fromkeys((*names, "cuStreamSynchronize", "cuGetErrorName"), address)
    )
    slots = engine._runner._slots._idle  # type: ignore[attr-defined]
    assert slots
    for slot in slots:
        slot.program._native = slot.program.native(_core.Stream(driver, context=0, handle=0))


def python_calls(function: Callable[[], Any]) -> int:
    """Calls of Python functions of the package that one call makes."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        name = frame.f_globals.get("__name__", "")
        count += event == "call" and name.startswith("fusion_engine.")

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count
