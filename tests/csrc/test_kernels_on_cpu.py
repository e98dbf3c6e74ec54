"""The kernels' own source with CUDA's threads as the CPU's: bit for bit its host build, no race.

A build with FUSION_ENGINE_KERNELS_ON_CPU=ON has them, as `make sanitize-cpu` makes it.
"""

import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from fusion_engine import _core
from fusion_engine.engine.fusion import FusionState
from fusion_engine.frontend import FRONTENDS, FrontendSpec, frontend_tables
from fusion_engine.frontend.frontend_spec import AST, PANNS_8K, PANNS_16K, PANNS_32K

from .. import signals
from .cases import DTYPES, HEADS
from .log_mel import stacked

pytestmark = pytest.mark.skipif(
    _core.cuda_architectures() != ["cpu"], reason="a build without the kernels on the CPU"
)

ON_A_GPU = 1024  # threads: what fills the shim's one multiprocessor
Array = NDArray[Any]


def device_layer(x: Array, time_pool: int) -> _core.DeviceLayer:
    return _core.DeviceLayer(
        x.ctypes.data,
        dtype=x.dtype.name,
        shape=x.shape,
        strides=[s // x.itemsize for s in x.strides],
        time_pool=time_pool,
    )


def nchw(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def nhwc(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    s, c, t, f = shape
    return nchw((s, t, f, c), dtype, seed).transpose(0, 3, 1, 2)


F16, BF16 = np.float16, ml_dtypes.bfloat16
POOLS = [1, 2, 3, 4, 5, 8, 16]
# Layer outputs and their time pools: one lane, lanes in a warp, in several, an odd rest.
CALLS: dict[str, tuple[list[Array], list[int]]] = {
    "1 lane": ([nchw((2, 5, 8, 8), np.float32)], [8]),
    "4 lanes": ([nchw((2, 33, 13, 8), F16), nchw((2, 3, 9, 1), np.float32)], [4, 3]),
    "NCHW in a warp": ([nchw((1, 4, 80, 8), F16)], [2]),
    "NCHW in two warps": ([nchw((1, 3, 40, 8), np.float32)], [1]),
    "NCHW in four": ([nchw((1, 2, 40, 16), np.float32), nchw((1, 9, 40, 2), BF16)], [1, 1]),
    "NHWC": ([nhwc((2, 24, 33, 2), F16), nhwc((2, 16, 300, 1), BF16)], [1, 9]),
    "pools": ([nchw((1, 2, 19 * k, 8), F16, k) for k in POOLS], POOLS),
    "vectors": ([nchw((3, 100), F16), nchw((3, 7), np.float32)], [1, 1]),
    "a vector beside a map": ([nchw((2, 12, 20, 4), BF16), nchw((2, 6), BF16)], [2, 1]),
}  # fmt: skip
by_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def ranges_of(outputs: list[Array], pools: list[int]) -> dict[str, Array]:
    """Two segments to the first clip where there are as many, and fewer frames than there are."""
    segments = len(outputs[0])
    frames = max(
        [x.shape[2] // k for x, k in zip(outputs, pools, strict=True) if x.ndim == 4] or [5]
    )
    offsets = [0, *range(min(2, segments), segments + 1)]
    return {
        "offsets": np.array(offsets, np.int64),
        "begins": np.arange(segments, dtype=np.int64) % min(2, frames),
        "counts": np.array([max(1, frames - 1 - s) for s in range(segments)], np.int64),
    }


def pointers(arrays: dict[str, Array]) -> dict[str, int]:
    return {name: array.ctypes.data for name, array in arrays.items()}


def dim_of(outputs: list[Array]) -> int:
    return sum(x.shape[1] * (x.shape[3] if x.ndim == 4 else 1) for x in outputs)


@by_call
@pytest.mark.parametrize("partly", [False, True], ids=["whole", "ranges and frame features"])
def test_fusion_is_its_host_build(call: tuple[list[Array], list[int]], partly: bool) -> None:
    outputs, pools = call
    ranges = ranges_of(outputs, pools) if partly else {}
    clips = len(ranges["offsets"]) - 1 if partly else len(outputs[0])
    dim = dim_of(outputs)
    frames = [np.full((clips, dim, 90), 7.0, np.float32) for _ in range(2)]
    expected, _ = _core.fuse(
        outputs, pools, **ranges, target_threads=ON_A_GPU, frames=frames[0] if partly else None
    )
    embedding, flags = np.full((clips, dim), 7.0, np.float32), np.zeros(clips, np.uint32)
    _core.fuse_cuda(
        [device_layer(x, k) for x, k in zip(outputs, pools, strict=True)],
        clips=clips,
        embedding=embedding.ctypes.data,
        flags=flags.ctypes.data,
        frames=frames[1].ctypes.data if partly else 0,
        frames_total=90,
        **pointers(ranges),
    )
    np.testing.assert_array_equal(embedding, expected)
    np.testing.assert_array_equal(frames[1], frames[0])
    assert not flags.any()


def test_accumulate_and_finalize_are_their_host_build() -> None:
    outputs, pools = CALLS["a vector beside a map"]
    layers = [device_layer(x, k) for x, k in zip(outputs, pools, strict=True)]
    host, device = (FusionState.empty(2, dim_of(outputs)) for _ in range(2))
    for begin, end in pairwise([0, 3, 10]):
        ranges = {"begins": np.full(2, begin), "counts": np.full(2, end - begin)}
        _core.accumulate(outputs, pools, **ranges, **vars(host), target_threads=ON_A_GPU)
        _core.accumulate_cuda(layers, clips=2, **pointers(ranges), **pointers(vars(device)))
    for name, array in vars(host).items():
        np.testing.assert_array_equal(vars(device)[name], array)
    for head in HEADS:
        embedding = np.zeros((2, dim_of(outputs)), np.float32)
        _core.finalize_cuda(
            clips=2,
            dim=dim_of(outputs),
            head=head,
            embedding=embedding.ctypes.data,
            **pointers(device.totals),
        )
        np.testing.assert_array_equal(embedding, _core.finalize(**host.totals, head=head))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_fusion_flags_what_is_not_finite(dtype: Any, value: float) -> None:
    x, y = nchw((2, 8, 40, 8), dtype), nchw((2, 3), dtype)
    x[1, 6, 21, 3] = value
    flags, embedding = np.zeros(2, np.uint32), np.zeros((2, 67), np.float32)
    _core.fuse_cuda(
        [device_layer(y, 1), device_layer(x, 4)],
        clips=2,
        embedding=embedding.ctypes.data,
        flags=flags.ctypes.data,
    )
    np.testing.assert_array_equal(flags, [0, 2])


def log_mel(
    spec: FrontendSpec, clips: list[Any], out_frames: int, least: int = 0, **options: Any
) -> tuple[Array, Array]:
    """By the kernel, and by its host build; the flags of both are equal."""
    samples, lengths = stacked(clips, room=3)
    tables = frontend_tables(spec, **options)
    words = np.frombuffer(tables.data, np.uint32).copy()
    frames = spec.frames(len(clips[0]))
    flags, expected_flags = (np.zeros(len(clips), np.uint32) for _ in range(2))
    expected = _core.log_mel_on_host_grid(
        tables,
        samples,
        frames=frames,
        least=least,
        lengths=lengths,
        out_frames=out_frames,
        flags=expected_flags,
    )
    got = np.full_like(expected, 7)
    _core.log_mel_cuda(
        tables,
        tables=words.ctypes.data,
        samples=samples.ctypes.data,
        dtype=samples.dtype.name,
        clips=len(samples),
        stride=samples.shape[1],
        lengths=lengths.ctypes.data,
        frames=frames,
        least=least,
        out=got.ctypes.data,
        out_frames=out_frames,
        flags=flags.ctypes.data,
    )
    np.testing.assert_array_equal(flags, expected_flags)
    return got, expected


@pytest.mark.parametrize("spec", FRONTENDS.values(), ids=FRONTENDS.keys())
def test_the_frontend_is_its_host_build(spec: FrontendSpec) -> None:
    """A block that is not full, and rows after the last frame."""
    x = signals.speech_like(1.0, spec.sample_rate)[: spec.samples(10)]
    np.testing.assert_array_equal(*log_mel(spec, [x], out_frames=18))


@pytest.mark.parametrize("spec", [PANNS_8K, AST], ids=lambda spec: spec.preset)
def test_clips_of_different_lengths_are_those_of_the_host_build(spec: FrontendSpec) -> None:
    clips = [signals.noise(1.0, spec.sample_rate, seed) for seed in range(3)]
    clips[1], clips[2] = clips[1][: spec.samples(21) + 7], clips[2][: spec.samples(2)]
    got, expected = log_mel(spec, clips, out_frames=spec.frames(len(clips[0])) + 3, least=5)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_frontend_scales_and_rounds_as_its_host_build(dtype: Any) -> None:
    x = signals.speech_like(1.0, 16_000)[: AST.samples(5)]
    affine = np.linspace([0.1, -1], [0.3, 1], AST.n_mels, dtype=np.float32).T
    got, expected = log_mel(AST, [x], out_frames=9, affine=affine, dtype=dtype)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("spec", [PANNS_8K, AST, PANNS_32K], ids=lambda spec: spec.preset)
def test_the_frontend_flags_what_is_not_finite(spec: FrontendSpec) -> None:
    clips = [signals.noise(1.0, spec.sample_rate, seed)[: spec.samples(4)] for seed in range(2)]
    clips[1][spec.hop_length // 2] = np.inf
    got, expected = log_mel(spec, clips, out_frames=4)
    np.testing.assert_array_equal(got, expected)


def test_int16_samples() -> None:
    x = np.round(signals.noise(0.1, 16_000) * 32_767).astype(np.int16)
    np.testing.assert_array_equal(*log_mel(PANNS_16K, [x], out_frames=11))


def without_barrier(number: int, test: str) -> subprocess.CompletedProcess[str]:
    """A test of this file in a process whose kernels miss the barrier that has this number."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-s",
        "-p",
        "no:cacheprovider",
        f"{__file__}::{test}",
    ]
    return subprocess.run(
        command,
        env=os.environ | {"FUSION_ENGINE_OMIT_BARRIER": str(number)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif("libtsan" not in os.environ.get("LD_PRELOAD", ""), reason="no ThreadSanitizer")
@pytest.mark.parametrize(
    ("test", "number"),
    [
        ("test_fusion_is_its_host_build[whole-NHWC]", 0),  # of the block
        ("test_fusion_is_its_host_build[whole-NCHW in a warp]", 0),  # of the warp
        ("test_int16_samples", 2),
    ],
)
def test_a_missing_barrier_is_a_race(test: str, number: int) -> None:
    done = without_barrier(number, test)
    assert "WARNING: ThreadSanitizer: data race" in done.stderr, done.stdout
