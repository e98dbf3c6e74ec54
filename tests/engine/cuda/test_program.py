"""The native side of a warm call: what it copies, checks, launches and reports, and how briefly."""

import subprocess
import sys
from collections import UserList
from dataclasses import replace

import numpy as np
import pytest
import torch

import fusion_engine as fe
from fusion_engine import _core
from fusion_engine.audio.arrays import INT16_SCALE, MAX_SAMPLE
from fusion_engine.engine import dispatch

from .artifacts import CHUNKED, write_artifact
from .double import CONTEXT, COPY, HostCuda, Machine, NativeDriver, view
from .test_runner import noise, pcm

STRIDE, DIM = 1_000, 24


class Buffers:
    """What stands for page-locked memory and the device's, and the copies from one to the other."""

    def __init__(self, clips, dtype, stride=STRIDE):
        counts = {"flags": 8 * clips, "lengths": 8 * clips}
        counts["samples"] = clips * stride * np.dtype(dtype).itemsize
        start = 0
        self.host = np.full(sum(counts.values()), 77, np.uint8)
        for name, size in counts.items():
            setattr(self, name, self.host[start : start + size])
            start += size
        self.flags = self.flags.view(np.uint32).reshape(2, clips)
        self.lengths = self.lengths.view(np.int64)
        self.samples = self.samples.view(dtype).reshape(clips, stride)
        self.embedding = np.arange(clips * DIM, dtype=np.float32).reshape(clips, DIM)
        self.device = np.full(len(self.host), 66, np.uint8)
        self.driver, self.copies = NativeDriver(Machine()), []
        self.driver.functions["cuMemcpyHtoDAsync"] = self._copy = COPY(
            lambda *arguments: self.copy(*arguments)
        )
        self.program = _core.Program(
            _core.Stream(self.driver.bind(), context=CONTEXT, handle=0),
            device=self.device.ctypes.data,
            samples=self.samples.ctypes.data,
            dtype=np.dtype(dtype).name,
            clips=clips,
            stride=stride,
            lengths=self.lengths.ctypes.data,
            flags=self.flags.ctypes.data,
            embedding=self.embedding.ctypes.data,
            dim=DIM,
            largest=MAX_SAMPLE,
        )

    def copy(self, target, source, size, stream):
        start = target - self.device.ctypes.data
        assert 0 <= start <= len(self.device) - size
        self.device[start : start + size] = view(source, np.uint8, size)
        self.copies.append((start, source, size))
        return 0


def floats(count, seed=0):
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


@pytest.mark.parametrize("count", [1, 7, 15, 16, 17, 999, STRIDE, STRIDE + 5])
def test_samples_are_converted_as_numpy_does(count):
    integers = np.linspace(-32_768, 32_767, count).astype(np.int16)
    doubles = np.linspace(-1 / 3, 1e15, count)
    buffers = Buffers(3, np.float32)
    buffers.program.load([floats(count), doubles, integers])
    length = min(count, STRIDE)
    expected = np.stack([floats(count), doubles.astype(np.float32), integers * INT16_SCALE])
    assert buffers.samples[:, :length].tobytes() == expected[:, :length].tobytes()
    assert (np.ascontiguousarray(buffers.samples[:, length:]).view(np.uint8) == 77).all()
    assert (buffers.lengths == length).all()
    assert not buffers.flags.any()
    assert buffers.program.results()[2] == []
    assert np.array_equal(buffers.device, buffers.host)
    assert len(buffers.copies) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 9])
def test_samples_are_sent_in_pieces_of_two_megabytes(rows, dtype):
    """The first ones before the last are copied; together they are all of the input, once."""
    stride = 2**18 - 64 if dtype == np.float32 else 2**19 - 128
    buffers = Buffers(rows, dtype, stride)
    clips = [(100 * floats(stride - 5, row)).astype(dtype) for row in range(rows)]
    copy, seen = buffers.copy, []

    def note(*arguments):
        seen.append(int((buffers.samples[:, 9] != buffers.samples[-1, -1]).sum()))
        return copy(*arguments)

    buffers.copy = note
    buffers.program.load(clips)
    # Two rows and the head are a little less than 2 MB: the third row makes it a piece.
    assert seen == [*range(3, rows, 3), rows]
    ends = np.cumsum([size for _, _, size in buffers.copies])
    assert [start for start, _, _ in buffers.copies] == [0, *ends[:-1]]
    assert ends[-1] == len(buffers.host)
    assert np.array_equal(buffers.device, buffers.host)
    for row, clip in enumerate(clips):
        assert np.array_equal(buffers.samples[row, : len(clip)], clip)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_what_is_in_place_is_sent_from_there(dtype):
    buffers = Buffers(3, dtype)
    lengths = [STRIDE, 7, STRIDE + 3]
    clips = [(100 * floats(count, count)).astype(dtype) for count in lengths]
    buffers.program.load(clips, in_place=True)
    assert (buffers.samples.view(np.uint8) == 77).all()
    assert buffers.lengths.tolist() == [STRIDE, 7, STRIDE]
    head = buffers.flags.nbytes + buffers.lengths.nbytes
    size = np.dtype(dtype).itemsize
    assert buffers.copies == [(0, buffers.flags.ctypes.data, head)] + [
        (head + row * STRIDE * size, clip.ctypes.data, size * min(len(clip), STRIDE))
        for row, clip in enumerate(clips)
    ]
    assert np.array_equal(buffers.device[:head], buffers.host[:head])
    assert buffers.program.results()[2] == []
    if dtype == np.float32:
        clips[2][STRIDE + 1] = np.inf
        buffers.program.load(clips, in_place=True)
        assert buffers.program.results()[2] == [2]
        with pytest.raises(TypeError, match="expected float32 in place"):
            buffers.program.load([*clips[:2], clips[2].astype(np.float64)], in_place=True)


def test_int16_stays_as_it_is():
    buffers, clips = Buffers(2, np.int16), [pcm(0.05, seed) for seed in range(2)]
    buffers.program.load(clips)
    for row, clip in enumerate(clips):
        assert np.array_equal(buffers.samples[row, : len(clip)], clip)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.01e15, -1.01e15])
@pytest.mark.parametrize("place", [0, 5, STRIDE - 1, STRIDE, STRIDE + 6])
def test_a_bad_sample_is_found_wherever_it_is(dtype, bad, place):
    clips = [floats(STRIDE + 7, seed).astype(dtype) for seed in range(3)]
    largest = dtype(MAX_SAMPLE)
    clips[0][:2] = largest, -largest
    buffers = Buffers(3, np.float32)
    for _ in range(2):
        clips[1][place] = bad
        buffers.program.load(clips)
        assert buffers.program.results()[2] == [1]
        clips[1][place] = 0  # the next batch is another one
        buffers.program.load(clips)
        assert buffers.program.results()[2] == []


def test_results_are_copies_and_say_which_rows_are_none():
    buffers, clips = Buffers(4, np.float32), [floats(10)] * 4
    buffers.program.load(clips)
    buffers.flags[:] = [[0, 0, 5, 0], [9, 9, 9, 9]]
    buffers.embedding[3, DIM - 1] = -np.inf
    embedding, flags, faulty = buffers.program.results()
    assert faulty == [2, 3]
    assert embedding.tobytes() == buffers.embedding.tobytes()
    assert (flags.tolist(), flags.dtype) == ([0, 0, 5, 0], np.uint32)
    buffers.embedding[:] = 0
    assert embedding[0, 1] == 1


def test_what_is_no_batch():
    program = Buffers(2, np.float32).program
    for clips, error, message in (
        ([floats(5)], ValueError, "got 1 clips; expected 2"),
        ([floats(5), np.zeros(5, np.int32)], TypeError, r"int32 \(5,\); expected float32"),
        ([floats(5), np.zeros(5, ">f4")], TypeError, "expected float32"),
        ([floats(5), floats(10)[::2]], ValueError, "contiguous"),
        ([floats(5), np.zeros((1, 5), np.float32)], ValueError, r"expected \[N\]"),
        ([floats(5), np.zeros(21, np.uint8)[1:].view(np.float32)], ValueError, "not aligned"),
    ):
        with pytest.raises(error, match=message):
            program.load(clips)
    with pytest.raises(TypeError, match="expected int16"):
        Buffers(1, np.int16).program.load([floats(5)])
    with pytest.raises(ValueError, match="dtype is 'float64'"):
        Buffers(1, np.float64)
    with pytest.raises(ValueError, match="flags, lengths and samples come in this order"):
        _core.Program(
            _core.Stream(NativeDriver(Machine()).native, context=0, handle=0),
            **dict.fromkeys(("device", "samples", "lengths", "embedding"), 0),
            **{"flags": 8, "dtype": "int16", "clips": 1, "stride": 1, "dim": 1, "largest": 1.0},
        )
    functions = dict.fromkeys(NativeDriver(Machine()).functions, 1)
    with pytest.raises(ValueError, match="cuGraphLaunch is 0; expected its address"):
        _core.Driver(**{**functions, "cuGraphLaunch": 0})


@pytest.fixture
def warm(machine, artifact, open_plan, tmp_path):
    """An engine that takes 12 s in one run."""
    path = write_artifact(tmp_path / "wide.onnx", replace(CHUNKED, max_frames=1_200))
    with open_plan(path) as engine:
        yield engine


def recorded(engine, x):
    """The embedding, and a graph for the next call."""
    for _ in range(2):
        engine.embed(x)
    return engine.embed(x)


@pytest.mark.parametrize("make", [noise, pcm])
@pytest.mark.parametrize("rate", [None, 16_000])
@pytest.mark.parametrize("clips", [None, 8])
def test_a_warm_call_is_few_python_calls(warm, make, rate, clips):
    """Of the package; the rest is NumPy's, threading's and the double's."""
    x = make(10.0) if clips is None else np.stack([make(1.0)] * clips)
    for _ in range(3):
        warm.embed(x, sample_rate=rate)
    called = []

    def note(frame, event, argument):
        if event == "call" and frame.f_globals.get("__name__", "").startswith("fusion_engine."):
            called.append(frame.f_code.co_qualname)

    (slot,) = warm._runner._slots._idle
    slot.graph.work.clear()  # what the double does in the GPU's place
    sys.setprofile(note)
    warm.embed(x, sample_rate=rate)
    sys.setprofile(None)
    assert len(called) <= (12 if clips is None else 13), called


@pytest.mark.parametrize("seconds", [[1.0] * 64, [0.5, 1.0] * 32])
def test_a_list_is_few_python_calls(warm, seconds):
    """However many clips it has: a few more for each batch."""
    clips = [noise(length, seed) for seed, length in enumerate(seconds)]
    expected = warm.embed(UserList(clips))  # which goes the way of all audio
    for _ in range(3):
        assert np.array_equal(warm.embed(clips), expected)
    called = []

    def note(frame, event, argument):
        if event == "call" and frame.f_globals.get("__name__", "").startswith("fusion_engine."):
            called.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    warm.embed(clips)
    sys.setprofile(None)
    batches = called.count("BatchProgram.start")
    assert batches >= 2
    assert len(called) <= 15 + 20 * batches, called


def test_lengths_of_lists_that_go_the_short_way():
    good = [floats(3), np.zeros(2, np.int16), np.zeros(5), floats(7).copy()]
    assert _core.clip_lengths(good) == [3, 2, 5, 7]
    assert _core.clip_lengths(tuple(good)) == [3, 2, 5, 7]
    assert _core.clip_lengths([]) == []
    for other in (
        np.ma.MaskedArray(floats(3)),
        floats(6)[::2],
        floats(6).reshape(2, 3),
        floats(0),
        np.float32(1),
        np.zeros(3, ">f4"),
        np.zeros(3, np.float16),
        np.zeros(13, np.uint8)[1:].view(np.float32),
        [0.0, 1.0],
        "clip.wav",
        torch.zeros(3),
        None,
    ):
        assert _core.clip_lengths([floats(3), other]) is None


def test_the_error_of_a_list_is_that_of_its_first_bad_clip(warm):
    """Of three lengths, whose batches end in another order than the list's."""
    clips = [noise(length, seed) for seed, length in enumerate([0.5, 1.0, 0.7, 1.0, 0.5])]
    expected = warm.embed(clips)
    clips[3][7] = np.nan
    clips[4][9] = np.inf
    for _ in range(3):
        with pytest.raises(fe.AudioError, match="clip 3: sample 7 is nan"):
            warm.embed(clips)
    clips[3][7] = clips[4][9] = 0.25
    assert np.array_equal(warm.embed(clips)[:3], expected[:3])


def test_the_short_way_gives_what_the_long_way_gives(warm):
    for x in (noise(1.0, 1), pcm(1.0, 2), noise(0.01, 3), noise(11.5, 4)):
        x.flags.writeable = False
        for head in (None, "max"):
            (expected,) = warm.embed([x], head=head)
            for _ in range(3):
                assert np.array_equal(warm.embed(x, head=head), expected)
        batch = np.stack([x, x[::-1], x])
        expected = warm.embed(list(batch))
        for _ in range(3):
            assert np.array_equal(warm.embed(batch), expected)
    before = warm.stats
    warm.embed(noise(1.0))
    after = warm.stats
    assert (after.clips, after.runs) == (before.clips + 1, before.runs + 1)
    assert after.audio_seconds == before.audio_seconds + 1.0
    assert after.gpu_seconds > before.gpu_seconds


def test_what_does_not_go_the_short_way_is_as_before(warm):
    x = noise(1.0)
    expected = warm.embed(x)
    strange = np.zeros(4 * len(x) + 1, np.uint8)[1:].view(np.float32)
    strange[:] = x
    others = [np.repeat(x, 2)[::2], x.astype(">f4"), x.astype(np.float64), strange]
    for same in (*others, np.ma.MaskedArray(x), torch.from_numpy(x)):
        assert np.array_equal(warm.embed(same), expected)
    assert np.array_equal(warm.embed(x[None]), expected[None])
    with pytest.raises(fe.AudioError, match="clip: no samples"):
        warm.embed(x[:0])
    with pytest.raises(fe.AudioError, match=r"looks like \[samples, channels\]"):
        warm.embed(np.zeros((16_000, 2), np.float32))
    assert warm.embed(np.zeros((0, 16_000), np.float32)).shape == (0, 1280)
    with pytest.raises(TypeError, match="has dtype int32"):
        warm.embed(x.astype(np.int32))
    with pytest.raises(TypeError, match=r"rate is 16000\.0"):
        warm.embed(x, sample_rate=16_000.0)
    with pytest.raises(fe.AudioError, match="shape"):
        warm.embed(x[None, None])
    assert len(warm.embed(np.repeat(x, 2), sample_rate=32_000)) == len(expected)
    with pytest.raises(ValueError, match="head is 'min'"):
        warm.embed(x, head="min")


@pytest.mark.parametrize("place", [0, 7_777, 15_999])
def test_the_error_of_a_bad_sample_is_the_cpus(warm, artifact, place):
    cpu = fe.Engine(artifact("chunked"), device="cpu")
    x = noise(1.0)
    expected = recorded(warm, x)
    for bad in (np.nan, -np.inf, 2e15):
        y = x.copy()
        y[place] = bad
        y[-1] = bad
        for audio in (y, [x, y, y], np.stack([x, x, y]), [x, pcm(1.0), y.astype(np.float64)]):
            for call in range(3):
                with pytest.raises(fe.AudioError) as wanted:
                    cpu.embed(audio)
                with pytest.raises(fe.AudioError) as got:
                    warm.embed(audio)
                assert str(got.value) == str(wanted.value), call
                assert got.value.kind == wanted.value.kind
    assert np.array_equal(warm.embed(x), expected)


def test_the_first_bad_clip_of_the_list_is_named(warm):
    """Whichever batch it is in, and whatever is wrong with it."""
    good, short, nan = noise(1.0), noise(0.5), noise(1.0)
    nan[9] = np.nan
    bad_short = short.copy()
    bad_short[3] = np.inf
    for audio, name in (
        ([good, bad_short, nan], "clip 1: sample 3 is inf"),
        ([good, short, nan, bad_short], "clip 2: sample 9 is nan"),
        ([good, np.tile(nan, 20), nan], "clip 1: sample 9 is nan"),
        ([good, np.zeros(0, np.float32), nan], "clip 1: no samples"),
    ):
        for _ in range(3):
            with pytest.raises(fe.AudioError, match=name):
                warm.embed(audio)


def test_samples_are_looked_at_once(warm, monkeypatch):
    looked = []
    monkeypatch.setattr("fusion_engine.audio.arrays.check_samples", lambda *_: looked.append(1))
    for audio in (noise(1.0), [noise(1.0)] * 3, np.stack([noise(1.0)] * 3)):
        for _ in range(3):
            warm.embed(audio)
    assert not looked
    warm.embed(np.repeat(noise(1.0), 2), sample_rate=32_000)
    assert looked


@pytest.mark.parametrize(
    "function", ["cuCtxPushCurrent", "cuMemcpyHtoDAsync", "cuGraphLaunch", "cuStreamSynchronize"]
)
def test_a_driver_that_fails(warm, machine, function):
    x = noise(1.0)
    expected = recorded(warm, x)
    native = warm._runner._cuda.driver
    native.fails = function
    with pytest.raises(fe.BackendError, match=r"cuda:0 failed: .*CUDA_ERROR_LAUNCH_FAILED"):
        warm.embed(x)
    native.fails = None
    assert machine.here.depth == 0
    assert warm.stats.slots == 0  # nobody knows what state it is in
    assert np.array_equal(warm.embed(x), expected)


def test_other_threads_run_meanwhile():
    """The wait is libc's for a semaphore, which only another thread of Python posts."""
    code = """
import ctypes, threading
import numpy as np
from fusion_engine import _core

libc = ctypes.CDLL(None)
semaphore = ctypes.create_string_buffer(64)
libc.sem_init(semaphore, 0, 0)
address = lambda name: ctypes.cast(getattr(libc, name), ctypes.c_void_p).value
driver = _core.Driver(
    cuCtxPushCurrent=address("abs"),
    cuCtxPopCurrent=address("abs"),
    cuMemcpyHtoDAsync=address("pthread_condattr_destroy"),
    cuGraphLaunch=address("abs"),
    cuStreamSynchronize=address("sem_wait"),
    cuGetErrorName=address("abs"),
)
stream = _core.Stream(driver, context=0, handle=ctypes.addressof(semaphore))
memory = np.zeros(20, np.float32)  # flags, lengths, samples, embedding
flags, lengths, samples, embedding = (memory.ctypes.data + 4 * n for n in (0, 2, 4, 12))
program = _core.Program(
    stream, device=0, samples=samples, dtype="float32", clips=1, stride=8, lengths=lengths,
    flags=flags, embedding=embedding, dim=8, largest=1.0,
)
threading.Timer(0.1, libc.sem_post, [semaphore]).start()
print(program.run([np.ones(3, np.float32)], 0)[2], memory[4:12].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[] [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]\n", "")


def test_a_cpus_engine_checks_before_it_runs(artifact, monkeypatch):
    x = noise(1.0)
    x[5] = np.nan
    engine = fe.Engine(artifact("chunked"), device="cpu")
    monkeypatch.setattr(
        type(engine._runner), "run", lambda *_: pytest.fail("the runner was given a bad clip")
    )
    for audio in (x, [x]):
        with pytest.raises(fe.AudioError, match="sample 5 is nan"):
            engine.embed(audio)
    assert dispatch.check_samples  # the one that names the sample


def test_where_every_clip_is_one_piece_there_are_no_index_arrays(open_plan, monkeypatch):
    from .double import HostKernels

    asked, fuse = [], HostKernels.fuse

    def note(self, layers, **options):
        asked.append(options["ranges"])
        fuse(self, layers, **options)

    monkeypatch.setattr(HostKernels, "fuse", note)
    for name, seconds, whole in (
        ("chunked", 1.0, True),
        ("dropped", 0.9, True),
        ("padded", 0.9, True),
        ("dropped", 2.0, False),
        ("padded", 2.0, False),
    ):
        asked.clear()
        with open_plan(name) as engine:
            engine.embed(noise(seconds))
        assert [ranges is None for ranges in asked] == [whole], (name, seconds)


def test_one_copy_in_and_one_copy_out(warm, monkeypatch):
    """In: before the graph, which has the other one."""
    x, copies, fills = noise(1.0), [], []
    copy, fill = HostCuda.copy, HostCuda.fill
    monkeypatch.setattr(HostCuda, "copy", lambda s, *a: (copies.append(a), copy(s, *a)))
    monkeypatch.setattr(HostCuda, "fill", lambda s, *a: (fills.append(a), fill(s, *a)))
    warm.embed(x)
    copies.clear()
    sent = warm._runner._cuda.driver.copies
    sent.clear()
    warm.embed(x)  # recorded
    assert (len(copies), len(sent), len(fills)) == (1, 1, 0)
    warm.embed(x)
    assert (len(copies), len(sent), len(fills)) == (1, 2, 0)


def test_flags_of_a_call_are_not_those_of_the_call_before(warm):
    x, y = noise(1.0), noise(1.0)
    y[100] = np.nan
    expected = recorded(warm, x)
    (slot,) = warm._runner._slots._idle
    program = slot.program
    flags = view(program._host.address + program._flags, np.uint32, 2)
    with pytest.raises(fe.AudioError):
        warm.embed(y)
    assert flags.any()  # the device has seen the sample too
    assert np.array_equal(warm.embed(x), expected)
    assert not flags.any()
