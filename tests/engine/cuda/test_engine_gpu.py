"""The engine on a GPU against the engine on the CPU, on every library that runs there."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import fusion_engine as fe
from fusion_engine.engine.onnx import cuda_missing
from fusion_engine.engine.tensorrt import build
from fusion_engine.export import export

from ... import signals
from ...gpu import tensorrt_missing
from .torch_network import open_with_torch, write_weights

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

RATE = 16_000
# Of the largest value: the kernel's FP32 spectrum and another order of sums; in half precision the
# roundings of every layer besides.
TOLERANCE = {"fp32": 2e-4, "fp16": 1e-2, "bf16": 8e-2}
MODELS = {"cnn14": {}, "vggish": {}, "ast": {"seconds": 1.0}}
PLANS = [("tensorrt", p) for p in TOLERANCE] + [("tensorrt_rtx", p) for p in TOLERANCE]
LENGTHS = (0.4, 0.77, 1.0, 1.3)
MIB = 2**20


def noise(seconds, seed=0):
    return signals.noise(seconds, RATE, seed)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")

    def get(model):
        path = folder / f"{model}.onnx"
        if not path.exists():
            export(model, path, weights="random:0", **MODELS[model])
        return path

    return get


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    """Those of the artifact, for PyTorch's network."""
    folder = tmp_path_factory.mktemp("tensors")

    def get(model):
        path = folder / f"{model}.onnx"
        return path if path.exists() else write_weights(path, model, **MODELS[model])

    return get


@pytest.fixture(scope="module")
def on_cpu(artifact):
    """The CPU's answers to ``CLIPS``, computed once for a model."""
    known = {}

    def get(model):
        if model not in known:
            engine = fe.Engine(artifact(model), device="cpu")
            known[model] = (
                engine.embed(CLIPS),
                engine.embed_frames(LONG),
                engine.layer_outputs(CLIPS[0]),
            )
        return known[model]

    return get


CLIPS = [
    noise(1.0, 1),
    noise(0.05, 2),
    np.round(noise(1.0, 3) * 32_767).astype(np.int16),
    noise(10.0, 4),
    noise(70.0, 5),
]
LONG = CLIPS[-1]


@pytest.fixture(
    scope="module",
    params=[("onnxruntime", "fp32"), ("pytorch", "fp32"), ("pytorch", "fp16"), *PLANS],
    ids=lambda param: "-".join(param),
)
def opened(request, artifact, tensors):
    """Opens a model on a library in a precision: ``opened("cnn14", contexts=1)``."""
    library, precision = request.param
    reason = None
    if library == "onnxruntime":
        reason = cuda_missing("cuda")
    elif library != "pytorch":
        reason = tensorrt_missing(library)
    if reason is not None:
        pytest.skip(reason)

    def get(model, **options):
        if library == "pytorch":
            return open_with_torch(tensors(model), precision, **options)
        path = artifact(model)
        if library == "onnxruntime":
            return fe.Engine(path, device="cuda", **options)
        plan = path.with_name(f"{model}-{library}-{precision}.plan")
        if not plan.exists():
            build(path, plan, runtime=library, precision=precision)
        try:
            return fe.Engine(plan, **options)
        except fe.BackendError as error:
            if library == "tensorrt_rtx":  # data-centre GPUs are not what it is made for
                pytest.skip(f"tensorrt_rtx does not run here: {error}")
            raise

    get.library, get.precision = library, precision
    return get


@pytest.fixture
def small(opened):
    """CNN14-Fusion, closed at the end."""
    with opened("cnn14") as engine:
        yield engine


def assert_close(got, expected, bound):
    assert got.shape == expected.shape
    worst = np.abs(got - expected).max() / np.abs(expected).max()
    print(f"{worst:.2g} of the largest value, {bound:.2g} allowed")
    assert worst <= bound


@pytest.mark.parametrize("model", MODELS)
def test_the_cpus_answers(model, opened, on_cpu):
    embeddings, frames, layers = on_cpu(model)
    bound = TOLERANCE[opened.precision]
    with opened(model) as engine:
        print(engine.backend)
        assert engine.device == "cuda:0"
        assert torch.cuda.get_device_name(0) in engine.backend
        for _ in range(3):
            assert_close(engine.embed(CLIPS), embeddings, bound)
        assert_close(engine.embed_frames(LONG), frames, bound)
        got = engine.layer_outputs(CLIPS[0])
        assert list(got) == list(layers)
        for name, expected in layers.items():
            assert_close(got[name], expected, bound)


def test_graphs_across_shape_changes(small, opened):
    clips = [noise(length, seed) for seed, length in enumerate(LENGTHS)]
    alone = [small.embed(x) for x in clips]
    for _ in range(4):
        for x, expected in zip(clips, alone, strict=True):
            assert_close(small.embed(x), expected, 1e-6)
    if opened.library != "onnxruntime":
        assert small.stats.graphs == len(LENGTHS)
        assert small.stats.uncaptured_runs == len(LENGTHS)


def test_threads(small):
    clips = [noise(LENGTHS[seed % 4], seed) for seed in range(400)]
    alone = [small.embed(x) for x in clips]
    with ThreadPoolExecutor(8) as pool:
        for got, expected in zip(pool.map(small.embed, clips), alone, strict=True):
            assert_close(got, expected, 1e-6)


def test_batches(small, opened):
    batch = np.stack([noise(1.0, seed) for seed in range(70)])
    alone = np.stack([small.embed(x) for x in batch])
    # Another batch may take other kernels.
    assert_close(small.embed(batch), alone, TOLERANCE[opened.precision])


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_torch_in_and_out(small, dtype):
    x = torch.from_numpy(np.stack([noise(1.0, seed) for seed in range(3)]))
    x = (x * 32_767).round().to(dtype) if dtype == torch.int16 else x
    expected = small.embed(x.numpy())
    for _ in range(3):
        result = small.embed(x.cuda())
        assert_close(torch.from_dlpack(result).cpu().numpy(), expected, 1e-6)
        assert_close(torch.as_tensor(result, device="cuda").cpu().numpy(), expected, 1e-6)
        assert_close(result.numpy(), expected, 1e-6)
    # Not a row of the batch, which may take other kernels.
    assert_close(small.embed(x[0].cuda()).numpy(), small.embed(x[0].numpy()), 1e-6)
    long = torch.from_numpy(LONG)
    assert_close(small.embed(long.cuda()).numpy(), small.embed(LONG), 1e-5)


def test_streams(small):
    """The samples are written after a long kernel, and read on a third stream."""
    x = noise(1.0, 3)
    expected = small.embed(x)
    samples = torch.from_numpy(x).cuda()
    producer, consumer = torch.cuda.Stream(), torch.cuda.Stream()
    for _ in range(20):
        audio = torch.zeros(len(x), device="cuda")
        torch.cuda.synchronize()
        with torch.cuda.stream(producer):
            torch.cuda._sleep(20_000_000)
            audio.copy_(samples)
            result = small.embed(audio)
        with torch.cuda.stream(consumer):
            got = torch.from_dlpack(result) * 1
        consumer.synchronize()
        assert_close(got.cpu().numpy(), expected, 1e-6)
        result.check()


def test_samples_that_are_not_finite(small):
    audio = torch.zeros(2, RATE, device="cuda")
    audio[1, 100] = float("nan")
    result = small.embed(audio)
    with pytest.raises(fe.AudioError, match="clip 1: a sample is not finite"):
        result.numpy()


def test_the_callers_device_and_stream_stay(small):
    before = torch.cuda.current_device(), torch.cuda.current_stream()
    small.embed(noise(1.0))
    small.embed(torch.zeros(RATE, device="cuda"))
    assert (torch.cuda.current_device(), torch.cuda.current_stream()) == before
    x = torch.ones(4, device="cuda")
    assert x.sum().item() == 4


def used():
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return total - free


def test_a_warm_call_is_native(small, opened):
    """One array, from the record, against the same clip in a list, and its errors."""
    for x in (noise(1.0, 1), np.round(noise(1.0, 2) * 32_767).astype(np.int16)):
        for _ in range(2):
            small.embed(x)
        before = small.stats.uncaptured_runs
        got = small.embed(x)
        if opened.library != "onnxruntime":
            assert small.stats.uncaptured_runs == before
        assert_close(small.embed([x])[0], got, 1e-6)
        assert_close(small.embed(x[None])[0], got, 1e-6)
    for bad in (np.nan, 2e15):
        x = noise(1.0, 1)
        x[777] = bad
        for audio in (x, [noise(1.0, 1), x]):
            with pytest.raises(fe.AudioError, match="sample 777 is "):
                small.embed(audio)
    assert np.isfinite(small.embed(noise(1.0, 1))).all()


def test_warm_calls_of_threads_leave_the_contexts_as_they_were(small):
    """Each launch makes the engine's context current in its thread, and gives the thread's back."""
    x = noise(1.0)
    for _ in range(2):
        expected = small.embed(x)

    def call(_):
        same = np.allclose(small.embed(x), expected, rtol=0, atol=1e-6 * expected.max())
        return same and torch.ones(3, device="cuda").sum().item() == 3

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(64)))


def test_arrays_on_the_gpu_are_read_where_they_are(small):
    """Rows of a larger tensor, at an odd offset, and another one in every call of the graph."""
    rows = np.stack([noise(1.0, seed) for seed in range(3)])
    room = torch.zeros(3, 20_001, device="cuda")
    for seed in range(4):
        room[:, 1:16_001] = torch.from_numpy(np.roll(rows, seed, axis=0)).cuda()
        got = small.embed(room[:, 1:16_001]).numpy()
        assert_close(got, small.embed(room[:, 1:16_001].contiguous()).numpy(), 1e-6)
        assert_close(got, small.embed(np.roll(rows, seed, axis=0)), 1e-6)
    one = torch.from_numpy(rows[0]).cuda()
    assert_close(small.embed(one.expand(3, -1)).numpy()[2], small.embed(one).numpy(), 1e-6)


def test_an_array_that_is_read_where_it_is(small):
    x = small.input(4, 2.0)
    x[:] = [noise(2.0, seed) for seed in range(4)]
    expected = small.embed(x.copy())
    for _ in range(4):
        assert np.array_equal(small.embed(x), expected)
        assert np.array_equal(small.embed(x[:1]), small.embed(x[:1].copy()))
    x[:] = x[::-1].copy()
    assert np.array_equal(small.embed(x), expected[::-1])


def test_lists_and_futures_in_flight(small):
    clips = [noise(0.5 + 0.25 * (i % 5), i) for i in range(20)]
    expected = [small.embed(x) for x in clips]
    futures = [small.embed_async(x) for x in clips]
    for _ in range(3):
        got = small.embed(clips)
        for row, alone in zip(got, expected, strict=True):
            assert_close(row, alone, 1e-3)  # a batch may have other kernels than a clip
    for future, alone in zip(futures, expected, strict=True):
        assert_close(future.result(), alone, 1e-3)


def test_memory_after_ten_thousand_calls(small):
    clips = [noise(length, seed) for seed, length in enumerate(LENGTHS)]
    on_device = [torch.from_numpy(x).cuda() for x in clips]

    def calls(count):
        for index in range(count):
            small.embed(clips[index % 4])
            small.embed(on_device[index % 4]).check()

    calls(100)
    before, held = used(), small.stats.device_bytes
    calls(5_000)
    assert small.stats.device_bytes == held
    assert used() - before <= 8 * MIB


def test_a_bound_on_the_slots(opened):
    clips = [noise(length, seed) for seed, length in enumerate(LENGTHS)]
    with opened("cnn14") as engine:
        alone = [engine.embed(x) for x in clips]
        most = engine.stats.device_bytes
    if not most:
        pytest.skip("ONNX Runtime holds its buffers itself")
    with opened("cnn14", memory_limit=most * 2 // 3) as engine:
        for _ in range(3):
            for x, expected in zip(clips, alone, strict=True):
                assert_close(engine.embed(x), expected, 1e-6)
                assert engine.stats.device_bytes <= most * 2 // 3


def test_out_of_memory(small):
    expected = small.embed(noise(1.0))
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(free - 64 * MIB, dtype=torch.uint8, device="cuda")
    batch = np.stack([noise(30.0, seed) for seed in range(16)])
    with pytest.raises(fe.BackendError):
        small.embed(batch)
    del hog
    torch.cuda.empty_cache()
    assert_close(small.embed(noise(1.0)), expected, 1e-6)
    assert small.embed(batch).shape == (16, 6144)


def test_nothing_is_left_after_closing(opened):
    def cycle():
        with opened("cnn14", warmup=[(1, 1.0), (4, 2.0)]) as engine:
            engine.embed(noise(70.0))
        gc.collect()
        return used()

    cycle()  # libraries and kernels are loaded, and stay
    first = cycle()
    assert cycle() - first <= 4 * MIB
    engine = opened("cnn14")
    engine.close()
    with pytest.raises(fe.BackendError, match="was closed"):
        engine.embed(noise(1.0))


@pytest.fixture
def cached_plan_of(opened, artifact, monkeypatch, tmp_path):
    """A plan of CNN14 and how to open it, with a user's cache that begins empty."""
    monkeypatch.setenv("FUSION_ENGINE_CACHE", str(tmp_path))
    opened("cnn14").close()  # which builds it
    return lambda: opened("cnn14")


def kernels(folder):
    return {path: path.read_bytes() for path in folder.glob("kernels/*.cache")}


def test_compiled_kernels_are_kept(cached_plan_of, tmp_path, caplog):
    """The second engine has them all: it has nothing to add."""
    clips = [noise(1.0), noise(2.0)]
    with cached_plan_of() as engine:
        if "tensorrt_rtx" not in engine.backend:
            pytest.skip(f"{engine.backend} compiles nothing when it runs")
        expected = [engine.embed(x) for x in clips]
    first = kernels(tmp_path)
    assert len(first) == 1
    with caplog.at_level("INFO", logger="fusion_engine"), cached_plan_of() as engine:
        for x, embedding in zip(clips, expected, strict=True):
            assert_close(engine.embed(x), embedding, 1e-6)
    assert "starts anew" not in caplog.text
    assert kernels(tmp_path) == first


def test_compiled_kernels_of_two_engines(cached_plan_of, tmp_path, caplog):
    """Open at once, each on a shape that the other has not; the third has both."""
    one = cached_plan_of()
    if "tensorrt_rtx" not in one.backend:
        one.close()
        pytest.skip("it compiles nothing when it runs")
    other = cached_plan_of()
    one.embed(noise(1.0))
    other.embed(noise(2.0))
    one.close()
    other.close()
    kept = kernels(tmp_path)
    with cached_plan_of() as engine:
        engine.embed(noise(1.0))
        engine.embed(noise(2.0))
    assert kernels(tmp_path) == kept


def test_the_static_profile(opened):
    """Eight clips of 10 s, which it was built for, against each alone."""
    clips = np.stack([noise(10.0, seed) for seed in range(8)])
    with opened("cnn14") as engine:
        network = engine._runner._model.network
        if hasattr(network, "profiles"):
            assert [network.profile(batch, 1001) for batch in (8, 1)] == [0, 1]
        alone = np.stack([engine.embed(x) for x in clips])
        assert_close(engine.embed(clips), alone, TOLERANCE.get(engine.spec.precision, 2e-4))
