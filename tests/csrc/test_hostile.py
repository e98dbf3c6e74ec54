"""Every function of the native module under arguments that do not fit: an answer or an error.

Under `make sanitize-cpu` this is also the proof that no memory is touched that is not the call's.
"""

import inspect
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion_engine import _core

EXTREME = [-(2**63), -(2**31), -1, 0, 1, 2, 31, 2**31, 2**32, 2**62, 2**63 - 1, 2**64]
# Nothing between what is quick and what is refused: it would only take long.
HUGE = [2**31, 2**40, 2**62]


class Lazy:
    """A sequence that makes its items as they are asked for, and keeps none."""

    def __init__(self, make, length=1):
        self._make, self._length = make, length

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        if index >= self._length:
            raise IndexError(index)
        return self._make()


def misaligned(array: np.ndarray) -> np.ndarray:
    """The same values one byte off."""
    room = np.zeros(array.nbytes + 1, np.uint8)
    odd = room[1:].view(array.dtype).reshape(array.shape)
    odd[...] = array
    assert not odd.flags.aligned
    return odd


def repeated(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """One value in memory, seen at every index."""
    return np.lib.stride_tricks.as_strided(
        np.ones(1, dtype), shape, [0] * len(shape), writeable=False
    )


scalars = st.one_of(
    st.none(),
    st.sampled_from(EXTREME),
    st.sampled_from([0.5, float("nan"), float("inf"), "", "mean", "float32", "reflect", b"x"]),
    st.builds(object),
)


@st.composite
def arrays(draw) -> np.ndarray:
    """Of any type, shape and layout; a huge one holds a single value."""
    dtype = draw(st.sampled_from(["float32", "float16", "float64", "int64", "uint32", "i2", ">f4"]))
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, 33]), max_size=5).map(tuple))
    layout = draw(st.sampled_from(["plain", "misaligned", "reversed", "repeated", "huge", "odd"]))
    rng = np.random.default_rng(0)
    array = rng.integers(-3, 40, shape).astype(dtype)
    if layout == "misaligned" and array.size and array.ndim:
        return misaligned(array)
    if layout == "reversed" and array.ndim:
        return array[..., ::-1]
    if layout == "repeated":
        return repeated(shape, dtype)
    if layout == "odd" and array.ndim:
        return np.lib.stride_tricks.as_strided(
            np.zeros(4096, np.uint8).view(dtype), shape, [3] * len(shape), writeable=False
        )
    if layout == "huge" and array.ndim > 1:
        sizes = list(shape)  # not the first: as a sequence it would be walked through
        sizes[draw(st.integers(1, len(sizes) - 1))] = draw(st.sampled_from(HUGE))
        try:
            return repeated(tuple(sizes), dtype)
        except ValueError:  # NumPy has a limit as well
            return array
    return array


anything = st.one_of(
    scalars,
    arrays(),
    st.lists(st.one_of(arrays(), scalars), max_size=3),
    arrays().map(lambda array: Lazy(array.copy if array.size < 4096 else lambda: array)),
)


def tables(**changes) -> _core.FrontendTables:
    settings = {
        "n_fft": 512,
        "hop_length": 160,
        "padding": "reflect",
        "remove_dc": False,
        "preemphasis": 0.0,
        "spectrum": "power",
        "log": "db",
        "log_offset": 1e-10,
        "mean": 0.0,
        "std": None,
        "window": np.ones(512),
        "filters": np.ones((257, 8)),
    }
    return _core.FrontendTables(**settings | changes)


def layer() -> _core.DeviceLayer:
    return _core.DeviceLayer(
        0, dtype="float16", shape=(1, 8, 4, 2), strides=(64, 8, 2, 1), time_pool=1
    )


def fusion() -> dict:
    return {
        "outputs": [np.ones((2, 3, 4, 2), np.float32), np.ones((2, 5), np.float32)],
        "time_pools": [2, 1],
        "offsets": np.array([0, 2]),
        "begins": np.array([0, 1]),
        "counts": np.array([2, 1]),
        "frames": np.zeros((1, 11, 4), np.float32),
        "frame_offsets": np.array([1]),
    }


def state() -> dict:
    return {
        "sum": np.zeros((1, 11), np.float32),
        "compensation": np.zeros((1, 11), np.float32),
        "max": np.zeros((1, 11), np.float32),
        "count": np.ones(1, np.float32),
    }


def accumulation() -> dict:
    return fusion() | state() | {"flags": np.zeros(1, np.uint32)}


def driver() -> dict:
    names = "cuCtxPushCurrent cuCtxPopCurrent cuMemcpyHtoDAsync cuGraphLaunch cuStreamSynchronize"
    return dict.fromkeys([*names.split(), "cuGetErrorName"], 8)


def stream() -> dict:
    return {"driver": _core.Driver(**driver()), "context": 0, "handle": 0}


# What each takes when nothing is wrong; null pointers are never followed without a GPU.
CALLS = {
    "fuse": lambda: fusion() | {"head": "mean", "threads": 2, "target_threads": 64},
    "accumulate": lambda: accumulation() | {"threads": 1, "target_threads": 64},
    "finalize": lambda: state() | {"head": "mean_max"},
    "FrontendTables": lambda: {
        "n_fft": 128,
        "hop_length": 80,
        "padding": "none",
        "remove_dc": True,
        "preemphasis": 0.97,
        "spectrum": "magnitude",
        "log": "ln_add",
        "log_offset": 0.01,
        "mean": 1.0,
        "std": 2.0,
        "window": np.ones(128),
        "filters": np.ones((65, 4)),
    },
    "log_mel_on_host_grid": lambda: {
        "frontend": tables(),
        "samples": np.zeros((2, 800), np.float32),
        "frames": 6,
        "lengths": np.array([800, 300]),
        "out_frames": 8,
        "flags": np.zeros(2, np.uint32),
    },
    "DeviceLayer": lambda: {
        "data": 0,
        "dtype": "float32",
        "shape": (1, 8, 4, 2),
        "strides": (64, 8, 2, 1),
        "time_pool": 1,
    },
    "fuse_cuda": lambda: {"layers": [layer()], "clips": 1, "embedding": 0, "flags": 0},
    "accumulate_cuda": lambda: {
        "layers": [layer()],
        "clips": 1,
        "sum": 0,
        "compensation": 0,
        "max": 0,
        "count": 0,
        "flags": 0,
    },
    "finalize_cuda": lambda: {
        "clips": 1,
        "dim": 8,
        "sum": 0,
        "compensation": 0,
        "max": 0,
        "count": 0,
        "embedding": 0,
    },
    "log_mel_cuda": lambda: {
        "frontend": tables(),
        "tables": 0,
        "samples": 0,
        "dtype": "int16",
        "clips": 1,
        "stride": 800,
        "frames": 6,
        "out": 0,
        "out_frames": 6,
    },
    "cuda_architectures": dict,
    "Driver": driver,
    "clip_lengths": lambda: {"clips": [np.zeros(3, np.float32), np.zeros(2, np.int16)]},
    "Stream": stream,
    "Program": lambda: {
        "stream": _core.Stream(**stream()),
        "device": 0,
        "samples": 0,
        "dtype": "float32",
        "clips": 2,
        "stride": 800,
        "lengths": 0,
        "flags": 0,
        "embedding": 0,
        "dim": 8,
        "largest": 1e15,
    },
}
ON_CUDA = [name for name in CALLS if name.endswith("_cuda")]
ON_HOST = [name for name in CALLS if name not in ON_CUDA]


def test_every_function_is_called_here() -> None:
    named = {
        name
        for name, value in vars(_core).items()
        if not name.startswith("_") and (callable(value) or inspect.isclass(value))
    }
    assert named == set(CALLS)


@pytest.mark.parametrize("name", ON_HOST)
def test_the_calls_are_right_when_nothing_is_wrong(name: str) -> None:
    getattr(_core, name)(**CALLS[name]())


@pytest.mark.skipif(_core.cuda_enabled, reason="fusion_engine was built with CUDA")
@pytest.mark.parametrize("name", ON_CUDA)
def test_a_build_without_cuda_says_how_to_get_one(name: str) -> None:
    with pytest.raises(RuntimeError, match="FUSION_ENGINE_CUDA=ON"):
        getattr(_core, name)(**CALLS[name]())


@pytest.mark.parametrize("name", [name for name in CALLS if name != "cuda_architectures"])
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_arguments_of_any_kind(name: str, data: st.DataObject) -> None:
    """A result, or an error that Python can catch: no crash, no endless loop."""
    if name in ON_CUDA and _core.cuda_enabled:
        pytest.skip("device pointers are trusted")
    arguments = CALLS[name]()
    changed = st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=2, unique=True)
    for argument in data.draw(changed):
        arguments[argument] = data.draw(anything, label=argument)
    try:
        getattr(_core, name)(**arguments)
    except (TypeError, ValueError, IndexError, OverflowError, MemoryError):
        pass
    except RuntimeError as error:
        assert "without CUDA" in str(error)  # noqa: PT017


def test_a_lazy_sequence_is_kept() -> None:
    """Nobody else holds its items: where one is freed, the next would take its place."""
    rng = np.random.default_rng(0)
    whole = [rng.random((1, 64, 4, 2), np.float32) for _ in range(8)]
    items = iter([array.copy() for array in whole])
    embedding, _ = _core.fuse(Lazy(lambda: next(items).copy(), len(whole)), [1] * len(whole))
    expected, _ = _core.fuse(whole, [1] * len(whole))
    np.testing.assert_array_equal(embedding, expected)


def test_counts_that_overflow_are_refused() -> None:
    """Of vectors any count is taken, and the sum of two of them was negative: a write before the
    buffer."""
    vectors = np.ones((2, 3), np.float32)
    frames = np.zeros((1, 3, 4), np.float32)
    for count in (2**63 - 1, 2**62, 2**31):
        with pytest.raises(ValueError, match="clip 0 counts more than 2\\^31 frames"):
            _core.fuse([vectors], [1], offsets=[0, 2], counts=[count, count], frames=frames)
    assert not frames.any()
    embedding, _ = _core.fuse([vectors], [1], offsets=[0, 2], counts=[2**30, 2**30], head="mean")
    np.testing.assert_array_equal(embedding, np.ones((1, 3)))


@pytest.mark.parametrize(
    ("shape", "pool", "message"),
    [
        ((1, 2**28 + 1), 1, r"D = 268435457; expected at most 2\^28"),
        ((1, 2**15, 1, 2**15), 1, r"D = 1073741824; expected at most 2\^28"),
        ((1, 2**30 + 1), 1, r"channels 1073741825; expected 0 to 2\^30"),
        ((1, 1, 2**31 - 1, 1), 1, r"frames 2147483647; expected 0 to 2\^30"),
        ((2**31 + 1, 1), 1, "got 2147483649 segments; expected 0 to 2147483647"),
    ],
)
def test_sizes_that_overflow_are_refused(shape, pool, message) -> None:
    with pytest.raises(ValueError, match=message):
        _core.fuse([repeated(shape)], [pool], offsets=[0, shape[0]])


@pytest.mark.parametrize("name", ["outputs", "frames", "sum", "compensation", "max", "count"])
def test_misaligned_arrays_are_refused(name: str) -> None:
    arguments = CALLS["accumulate"]()
    if name == "outputs":
        arguments[name] = [misaligned(array) for array in arguments[name]]
    else:
        arguments[name] = misaligned(arguments[name])
    with pytest.raises(ValueError, match=rf"{name}.* not aligned; expected .*\.copy\(\)"):
        _core.accumulate(**arguments)


def test_misaligned_indices_are_copied() -> None:
    arguments = CALLS["fuse"]()
    expected, _ = _core.fuse(**arguments)
    for name in ("offsets", "begins", "counts", "frame_offsets"):
        arguments[name] = misaligned(arguments[name].astype(np.int64))
    np.testing.assert_array_equal(_core.fuse(**arguments)[0], expected)


@pytest.mark.parametrize("name", ["samples", "lengths", "flags"])
def test_misaligned_samples_are_refused(name: str) -> None:
    arguments = CALLS["log_mel_on_host_grid"]()
    arguments[name] = misaligned(arguments[name])
    with pytest.raises(ValueError, match=rf"{name}.* not aligned"):
        _core.log_mel_on_host_grid(**arguments)


def test_misaligned_tables_are_copied() -> None:
    window, filters = np.hanning(512), np.random.default_rng(0).random((257, 8))
    crooked = tables(window=misaligned(window), filters=misaligned(filters))
    assert crooked.data == tables(window=window, filters=filters).data


def test_threads_share_the_work_without_a_race() -> None:
    """Large enough for four, who all set one clip's flag; the sanitizer for threads watches."""
    x = np.random.default_rng(0).random((2, 2048, 1024, 2), np.float32)
    x[0, ::7, 5] = np.inf
    expected, _ = _core.fuse([x, x[:, :, 0, 0]], [4, 1], threads=1)
    got, flags = _core.fuse([x, x[:, :, 0, 0]], [4, 1], threads=4)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(flags, [1, 0])


def test_where_no_thread_can_start_the_caller_does_the_work() -> None:
    code = """
        import os, resource
        import numpy as np
        from fusion_engine import _core
        x = np.random.default_rng(0).random((1, 4096, 2048, 1), np.float32)
        expected, _ = _core.fuse([x], [1], threads=1)
        used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), resource.RLIM_INFINITY))
        got, _ = _core.fuse([x], [1], threads=4)
        assert (got == expected).all()
        print("equal")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    if "Sanitizer" in done.stderr:
        pytest.skip("a sanitizer needs its memory")
    assert done.stdout == "equal\n", done.stderr
