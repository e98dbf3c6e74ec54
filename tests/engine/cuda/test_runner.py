"""The GPU runner on the double against the CPU engine: addresses, cuts, layouts, errors."""

import functools

import numpy as np
import pytest

import fusion_engine as fe
from fusion_engine.engine.cuda.tensorrt_network import deserialize
from fusion_engine.engine.devices import find_gpu
from fusion_engine.engine.network_input import NetworkInput
from fusion_engine.engine.tensorrt import build, import_tensorrt
from fusion_engine.errors import ArtifactError

from ... import signals
from .artifacts import CHUNKED, SPECS, write_artifact
from .double import GPU
from .engines import REBUILD

RATE = 16_000
# The kernel's FP32 spectrum against the CPU's FP64, on signals with energy in every bin; and the
# rounding of layer outputs to 11 and 8 bits.
TOLERANCE = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 1.6e-2}
PLANS = [
    {},
    {"dtype": "float16", "channels_last": True},
    {"dtype": "bfloat16", "channels_last": True},
    {"dtype": "float16", "rtx": True},
]
plans = pytest.mark.parametrize("trt", PLANS, ids=lambda trt: "-".join(map(str, trt.values())))
every = pytest.mark.parametrize("name", SPECS)


def noise(seconds, seed=0):
    return signals.noise(seconds, RATE, seed)


def pcm(seconds, seed=0):
    return np.round(noise(seconds, seed) * 32_767).astype(np.int16)


def assert_close(got, expected, dtype="float32"):
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    worst = np.abs(got - expected).max() / np.abs(expected).max()
    assert worst <= TOLERANCE[dtype], f"{worst:.2g} of the largest value"


@pytest.fixture
def on_cpu(artifact):
    return lambda name: fe.Engine(artifact(name), device="cpu")


CLIPS = [
    noise(1.0, 1),
    noise(0.05, 2),  # shorter than the models take
    pcm(1.0, 3),
    noise(1.0, 4).astype(np.float64),
    noise(2.37, 5),
    pcm(0.99, 6),  # as many frames as 1.0 s in some models, and fewer samples
    noise(5.0, 7),
]


@pytest.fixture(scope="module")
def answers(artifact):
    """The CPU's answers: ``CLIPS`` embedded, and frames and layer outputs of the fifth."""

    @functools.cache
    def get(name):
        engine = fe.Engine(artifact(name), device="cpu")
        x = CLIPS[4]
        return engine.embed(CLIPS), engine.embed_frames(x), engine.layer_outputs(x)

    return get


@every
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_frontend_does_what_a_network_begins_with(name, dtype, open_plan, tmp_path):
    """A plan without its first scale and offset, in its input's type, against a graph with them."""
    n_mels = SPECS[name].frontend.n_mels
    rng = np.random.default_rng(0)
    affine = rng.uniform([[0.02], [-1.0]], [[0.1], [1.0]], (2, n_mels)).astype(np.float32)
    whole = write_artifact(tmp_path / "whole.onnx", SPECS[name], affine=affine)
    network_input = NetworkInput.of(dtype, *affine)
    x = CLIPS[6]
    with open_plan(name, trt={"network_input": network_input}) as engine:
        on_cpu = fe.Engine(whole, device="cpu")
        assert_close(engine.embed(CLIPS), on_cpu.embed(CLIPS), dtype)
        assert_close(engine.embed_frames(x), on_cpu.embed_frames(x), dtype)
        for layer, expected in on_cpu.layer_outputs(x).items():
            assert_close(engine.layer_outputs(x)[layer], expected, dtype)


def test_a_plan_of_another_input_is_refused(open_plan):
    with pytest.raises(ArtifactError, match=r"are not 2 × 64 finite FP32 numbers"):
        open_plan("chunked", trt={"network_input": NetworkInput(affine="AAAA")})


@every
@plans
def test_plans_give_the_cpus_answers(name, trt, open_plan, answers):
    (embeddings, frames, outputs), dtype = answers(name), trt.get("dtype", "float32")
    with open_plan(name, trt=trt) as engine:
        assert engine.device == "cuda:0"
        assert engine.backend == "tensorrt double on Host Double"
        for _ in range(3):  # as it is, then recorded, then from the record
            assert_close(engine.embed(CLIPS), embeddings, dtype)
        assert_close(engine.embed(CLIPS[0]), embeddings[0], dtype)
        assert_close(engine.embed_frames(CLIPS[4]), frames, dtype)
        layers = engine.layer_outputs(CLIPS[4])
        assert list(layers) == list(outputs)
        for layer, wanted in outputs.items():
            assert_close(layers[layer], wanted, dtype)


@every
def test_onnx_gives_the_cpus_answers(name, open_onnx, answers):
    embeddings, frames, outputs = answers(name)
    with open_onnx(name) as engine:
        assert "onnxruntime" in engine.backend
        assert_close(engine.embed(CLIPS), embeddings)
        assert_close(engine.embed_frames(CLIPS[4]), frames)
        layers = engine.layer_outputs(CLIPS[4])
        for layer, wanted in outputs.items():
            assert_close(layers[layer], wanted)
        assert engine.stats.graphs == 0
        assert engine.stats.uncaptured_runs == engine.stats.runs


@pytest.mark.parametrize("head", ["mean_max", "mean", "max"])
def test_heads(head, open_plan, on_cpu):
    with open_plan("chunked") as engine:
        for x in (CLIPS[0], CLIPS[4], noise(9.0)):
            assert_close(engine.embed(x, head=head), on_cpu("chunked").embed(x, head=head))


@every
def test_long_clips_run_by_run(name, open_plan, on_cpu):
    """Chunks with margins, or more segments than the profile takes."""
    x = noise(14.3)
    mels = SPECS[name].frontend.n_mels
    least = SPECS[name].min_frames
    most = min(SPECS[name].max_frames, 317)
    narrow = [((1, 1, least, mels), (2, 1, least, mels), (2, 1, most, mels))]
    expected = on_cpu(name)
    with open_plan(name, trt={"profiles": narrow}) as engine:
        assert_close(engine.embed(x), expected.embed(x))
        assert engine.stats.runs > 2
        assert engine.stats.uncaptured_runs == engine.stats.runs
        assert_close(engine.embed_frames(x), expected.embed_frames(x))
        for layer, wanted in expected.layer_outputs(x).items():
            assert_close(engine.layer_outputs(x)[layer], wanted)


def test_a_batch_beyond_the_profile_is_split(open_plan, on_cpu):
    profiles = [((1, 1, 32, 64), (2, 1, 100, 64), (3, 1, 600, 64))]
    batch = np.stack([noise(1.0, seed) for seed in range(8)])
    with open_plan("chunked", trt={"profiles": profiles}) as engine:
        assert_close(engine.embed(batch), on_cpu("chunked").embed(batch))
        assert engine.stats.runs == 3


def test_what_the_caller_holds_is_one_run(open_plan, monkeypatch):
    """However much audio it is: a window bounds what has to be decoded."""
    monkeypatch.setattr("fusion_engine.engine.dispatch.BATCH_SECONDS", 2.0)
    batch = np.stack([noise(1.0, seed) for seed in range(8)])
    with open_plan("chunked") as engine:
        for clips in (batch, list(batch)):
            before = engine.stats.runs
            engine.embed(clips)
            assert engine.stats.runs == before + 1


def test_the_profile_that_fits_is_taken(open_plan, on_cpu):
    profiles = [
        ((4, 1, 32, 64), (4, 1, 100, 64), (8, 1, 600, 64)),
        ((1, 1, 32, 64), (1, 1, 100, 64), (1, 1, 600, 64)),
    ]
    batch = np.stack([noise(1.0, seed) for seed in range(5)])
    with open_plan("chunked", trt={"profiles": profiles}) as engine:
        assert_close(engine.embed(batch), on_cpu("chunked").embed(batch))
        assert_close(engine.embed(batch[0]), on_cpu("chunked").embed(batch[0]))


def test_a_clip_below_the_plans_minimum(open_plan):
    profiles = [((2, 1, 64, 64), (2, 1, 100, 64), (3, 1, 600, 64))]
    with open_plan("chunked", trt={"profiles": profiles}) as engine:
        with pytest.raises(fe.AudioError, match="takes 2 to 3 inputs of 64 to 600") as error:
            engine.embed(noise(0.4))
        assert REBUILD in str(error.value)
        with pytest.raises(fe.AudioError, match="1 inputs of 101 frames"):
            engine.embed(noise(1.0))
        assert engine.embed([noise(1.0), noise(1.0)]).shape[0] == 2


def test_a_layer_output_that_is_not_finite(open_plan, tmp_path):
    path = write_artifact(tmp_path / "overflow.onnx", CHUNKED, bias=np.inf)
    with open_plan(path) as engine:
        for audio in ([noise(1.0)] * 2, noise(9.0)):
            with pytest.raises(fe.NumericalError, match="layer_2, layer_1 holds values"):
                engine.embed(audio)
        with pytest.raises(fe.NumericalError, match="clip: layer_2"):
            engine.embed_frames(noise(1.0))


def test_normalization(open_plan, artifact):
    expected = fe.Engine(artifact("padded"), device="cpu", normalization=(-6.0, 3.5))
    with open_plan("padded", normalization=(-6.0, 3.5)) as engine:
        assert_close(engine.embed(CLIPS[4]), expected.embed(CLIPS[4]))
    with pytest.raises(ValueError, match="does not normalise"):
        open_plan("chunked", normalization=(-6.0, 3.5))


def test_warmup_leaves_the_fast_path(open_plan):
    with open_plan("chunked", warmup=[(2, 1.0)]) as engine:
        assert engine.stats.graphs == 1
        before = engine.stats.uncaptured_runs
        engine.embed([noise(1.0), noise(1.0, 1)])
        assert engine.stats.uncaptured_runs == before


def test_an_onnx_becomes_a_plan(open_plan, artifact, monkeypatch, tmp_path):
    """``backend="tensorrt"`` asks the cache for a plan for this GPU, and runs it."""
    asked = []

    def cached(onnx, *, gpu):
        asked.append((onnx, gpu))
        return tmp_path / "chunked.plan"

    open_plan("chunked").close()  # which writes that file
    monkeypatch.setattr("fusion_engine.engine.open_gpu.cached_plan", cached)
    with fe.Engine(artifact("chunked"), backend="tensorrt") as engine:
        assert engine.backend.startswith("tensorrt double")
        assert np.isfinite(engine.embed(noise(1.0))).all()
    assert asked == [(artifact("chunked"), GPU)]


def test_what_auto_chose_is_said_once(open_plan, caplog):
    with caplog.at_level("INFO", logger="fusion_engine"):
        open_plan("chunked").close()
    said = [record.message for record in caplog.records if "device auto" in record.message]
    assert said == ["device auto: cuda:0, the first GPU, since TensorRT runs on no CPU"]


def no_gpu():
    try:
        find_gpu()
    except fe.BackendError:
        return True
    return False


@pytest.mark.skipif(not no_gpu(), reason="there is a GPU")
def test_where_there_is_no_gpu(artifact, tmp_path):
    plan = tmp_path / "chunked.plan"
    plan.write_bytes(artifact("chunked").read_bytes())
    for device in ("auto", "cuda", "cuda:1"):
        with pytest.raises(fe.BackendError, match=f"device '{device}' is none: no NVIDIA driver"):
            fe.Engine(plan, device=device)
    with pytest.raises(fe.BackendError, match="TensorRT runs on a GPU only"):
        fe.Engine(artifact("chunked"), backend="tensorrt")


@pytest.mark.rtx
@pytest.mark.skipif(not no_gpu(), reason="there is a GPU")
def test_what_the_library_says_when_it_loads_no_plan(cnn14_artifact, tmp_path):
    library = import_tensorrt("tensorrt_rtx")
    build(cnn14_artifact, tmp_path / "small.plan", runtime="tensorrt_rtx", precision="bf16")
    plan = (tmp_path / "small.plan").read_bytes()
    with pytest.raises(fe.BackendError, match=r"small.plan: tensorrt_rtx .* cannot load it") as got:
        deserialize(library, plan, "small.plan", REBUILD)
    print(got.value)
    assert REBUILD in str(got.value)


def test_what_is_no_engine(machine, artifact, open_plan, tmp_path):
    path = artifact("chunked")
    plan = tmp_path / "chunked.plan"
    plan.write_bytes(path.read_bytes())
    with pytest.raises(fe.BackendError, match="TensorRT runs on a GPU"):
        fe.Engine(plan, device="cpu")
    with pytest.raises(ValueError, match=r"'onnxruntime', and .* is a plan"):
        fe.Engine(plan, backend="onnxruntime")
    for wrong in ({"contexts": 0}, {"memory_limit": 0}):
        with pytest.raises(ValueError, match="expected at least 1"):
            fe.Engine(path, **wrong)
