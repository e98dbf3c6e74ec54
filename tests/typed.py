"""What a type checker sees of the public calls: read by `make types`, imported by nothing."""

from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import fusion_engine as fe
from fusion_engine.engine.cuda.arrays import DeviceArray, OnDevice


def embed(engine: fe.Engine, clip: NDArray[np.int16], tensor: OnDevice) -> None:
    assert_type(engine.embed(clip), NDArray[np.float32])
    assert_type(engine.embed("a.wav", head="mean"), NDArray[np.float32])
    assert_type(engine.embed([clip, Path("a.wav")], sample_rate=8_000), NDArray[np.float32])
    assert_type(engine.embed(tensor), DeviceArray)
    assert_type(engine.embed_frames(clip), NDArray[np.float32])
    assert_type(engine.layer_outputs("a.wav"), dict[str, NDArray[np.float32]])


def search(vectors: NDArray[np.float32], engine: fe.Engine) -> None:
    assert_type(fe.search("table.parquet", vectors), list[list[fe.Match]])
    assert_type(fe.search("table.parquet", "a.wav@1-2", engine=engine)[0][0].path, str)


def stream(engine: fe.Engine, clips: list[tuple[int, Any]]) -> None:
    for _, start, end, result in engine.embed_stream(clips, window=5.0):
        assert_type(start + end, float)
        if not isinstance(result, fe.FusionEngineError):
            assert_type(result, NDArray[np.float32])
