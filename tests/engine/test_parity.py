"""CNN14-Fusion from samples to embedding against PANNs' own model.

Three comparisons, because each catches what the others hide:
(a) the same log-mel in both: 5e-6 of the largest value;
(b) end to end against that backbone with an FP64 frontend: 2e-5;
(c) end to end against the stock model: 1e-4, plus twice the stock model's own distance from (b),
    which its FP32 spectrogram makes.
"""

import functools

import numpy as np
import pytest
import torch

import fusion_engine as fe
from fusion_engine.export import export
from fusion_engine.frontend import FRONTENDS, Frontend

from .. import oracles, signals
from ..exports import with_layers
from ..frontend import reference

SAME_LOG_MEL, FP64_FRONTEND, STOCK = 5e-6, 2e-5, 1e-4

RATES = (8_000, 16_000, 32_000)
LAYERS = {16_000: ([3, 6], [1], [6], [5, 2], [7]), 8_000: ([3, 6],), 32_000: ([3, 6], [7])}
FAST = [(16_000, [3, 6])]
CASES = [
    pytest.param(rate, numbers, marks=() if (rate, numbers) in FAST else pytest.mark.slow)
    for rate in RATES
    for numbers in LAYERS[rate]
]
# Shorter than the model's 0.31 s, odd counts, blocks that end raggedly; at one rate long ones too,
# where PyTorch takes its time.
SECONDS = dict.fromkeys(RATES, (0.05, 0.31, 1.0, 1.2345, 5.0171))
SECONDS[16_000] += (10.0, 31.7)


@pytest.fixture(scope="module")
def checkpoints(panns_16k, panns_checkpoint, tmp_path_factory):
    """For each rate PANNs' model and the checkpoint that it saved."""
    folder = tmp_path_factory.mktemp("checkpoints")

    @functools.cache
    def get(rate):
        if rate == 16_000:
            return panns_16k, panns_checkpoint
        model = oracles.panns_cnn14(rate, seed=rate)
        path = folder / f"Cnn14_{rate}.pth"
        torch.save(oracles.panns_checkpoint(model), path)
        return model, path

    return get


@pytest.fixture(scope="module")
def engines(checkpoints, cnn14_fusion, tmp_path_factory):
    """One engine at a time for each (rate, layers)."""
    folder = tmp_path_factory.mktemp("artifacts")

    @functools.lru_cache(maxsize=1)
    def get(rate, *layers):
        if (rate, layers) == (16_000, (3, 6)):
            return fe.Engine(cnn14_fusion.path)
        path = folder / "artifact.onnx"
        export(f"cnn14_{rate // 1000}k", path, layers=layers, weights=checkpoints(rate)[1])
        return fe.Engine(path)

    return get


@pytest.fixture(scope="module")
def expected(checkpoints):
    """All of PANNs' layers for a clip, by comparison: (a), (b) and (c)."""

    @functools.lru_cache(maxsize=len(SECONDS[16_000]))
    def get(rate, seconds):
        model, x = checkpoints(rate)[0], clip(seconds, rate)
        ours = Frontend(FRONTENDS[f"panns_{rate // 1000}k"]).batch([padded(x, rate)])
        inputs = torch.from_numpy(ours), fp64_log_mel(x, rate), stock_log_mel(model, x, rate)
        return tuple(oracles.panns_layers(model, log_mel) for log_mel in inputs)

    return get


@functools.cache
def clip(seconds, rate):
    """Speech-like, a chirp, a tone and noise, mixed: energy everywhere, peaks and quiet bins."""
    x = np.zeros(round(seconds * rate), np.float32)
    for level, signal in ((0.4, signals.speech_like), (0.2, signals.chirp), (0.1, signals.noise)):
        x += level * signal(seconds, rate, 1)
    return x


def padded(x, rate):
    """What a clip under 32 frames becomes: zeros on the right, up to 31 hops."""
    least = 31 * oracles.PANNS_SETTINGS[rate][1]
    return np.pad(x, (0, max(0, least - len(x))))


def fp64_log_mel(x, rate, **fault):
    """[1, 1, T, 64] of the independent frontend."""
    spec = FRONTENDS[f"panns_{rate // 1000}k"]
    log_mel = reference.panns(padded(x, rate), spec, **fault)
    return torch.from_numpy(log_mel.astype(np.float32))[None, None]


def stock_log_mel(model, x, rate):
    """[1, 1, T, 64] of torchlibrosa."""
    with torch.no_grad():
        samples = torch.from_numpy(padded(x, rate))[None]
        return model.logmel_extractor(model.spectrogram_extractor(samples))


def fused(layers, numbers, frames, *, pool_off=0):
    """Eq. 1 to 3 in FP64: frame features [D, T_o] (None without a time axis) and embedding [D]."""
    steps = frames // 32
    if numbers == [7]:
        return None, layers[7][0].double().numpy()
    features = []
    for number in numbers:
        x = layers[number].double()
        pool = 32 >> min(number, 5)
        if pool_off:
            x = torch.roll(x, pool_off, dims=2)
        x = torch.nn.functional.max_pool2d(x, (pool, 1))[:, :, :steps]
        features.append(x.permute(0, 1, 3, 2).flatten(1, 2))
    z = torch.cat(features, dim=1)[0]
    return z.numpy(), (z.mean(dim=1) + z.amax(dim=1)).numpy()


def error(got, expected):
    """Largest difference as a fraction of the largest value."""
    expected = np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    return np.abs(got - expected).max() / np.abs(expected).max()


def answers(engine, x):
    """Layer outputs, frame features (None without a time axis) and embedding of one clip."""
    has_time = all(layer.kind == "map" for layer in engine.spec.layers)
    return engine.layer_outputs(x), engine.embed_frames(x) if has_time else None, engine.embed(x)


def all_errors(got, layers, numbers, frames):
    """The worst error over layer outputs, frame features and embedding."""
    outputs, got_features, got_embedding = got
    features, embedding = fused(layers, numbers, frames)
    worst = [error(outputs[f"layer_{n}"], layers[n][0].numpy()) for n in numbers]
    if features is not None:
        worst.append(error(got_features, features))
    worst.append(error(got_embedding, embedding))
    return max(worst)


# The rate varies slowest: what is expected of a clip is worked out once for all layers.
@pytest.mark.parametrize(("rate", "numbers"), CASES, ids=str)
def test_three_comparisons(engines, expected, rate, numbers):
    engine = engines(rate, *numbers)
    for seconds in SECONDS[rate]:
        x = clip(seconds, rate)
        frames = engine.spec.frontend.frames(len(padded(x, rate)))
        same, exact, stock = expected(rate, seconds)
        stock_off = max(error(stock[n].numpy(), exact[n].numpy()) for n in numbers)
        got = answers(engine, x)
        a, b, c = (all_errors(got, layers, numbers, frames) for layers in (same, exact, stock))
        print(
            f"{rate} Hz {numbers} {seconds} s: (a) {a:.1e}, (b) {b:.1e}, (c) {c:.1e} with the "
            f"stock model off by {stock_off:.1e}"
        )
        assert a <= SAME_LOG_MEL
        assert b <= FP64_FRONTEND
        assert c <= STOCK + 2 * stock_off


@pytest.mark.parametrize(
    "fault", [{"periodic": False}, {"pad_mode": "constant"}, {"htk": True}], ids=str
)
def test_planted_frontend_faults_fail(engines, checkpoints, fault):
    engine, (model, _) = engines(16_000, 3, 6), checkpoints(16_000)
    x = clip(5.0171, 16_000)
    got = answers(engine, x)
    for planted, passes in (({}, True), (fault, False)):
        log_mel = fp64_log_mel(x, 16_000, **planted)
        layers = oracles.panns_layers(model, log_mel)
        worst = all_errors(got, layers, [3, 6], log_mel.shape[2])
        assert bool(worst <= FP64_FRONTEND) is passes


def test_planted_fusion_faults_fail(engines, checkpoints):
    engine, (model, _) = engines(16_000, 3, 6), checkpoints(16_000)
    x = clip(5.0171, 16_000)
    log_mel = fp64_log_mel(x, 16_000)
    frames = log_mel.shape[2]
    layers = oracles.panns_layers(model, log_mel)
    embedding = engine.embed(x)
    assert error(embedding, fused(layers, [3, 6], frames)[1]) <= FP64_FRONTEND
    assert error(embedding, fused(layers, [6, 3], frames)[1]) > FP64_FRONTEND
    assert error(embedding, fused(layers, [3, 6], frames, pool_off=1)[1]) > FP64_FRONTEND


def test_a_vector_beside_maps_is_repeated_over_time(cnn14_all, panns_16k, tmp_path):
    engine, model = fe.Engine(with_layers(cnn14_all.path, tmp_path / "a.onnx", [7, 1])), panns_16k
    x = clip(1.2345, 16_000)
    layers = oracles.panns_layers(model, fp64_log_mel(x, 16_000))
    # mean + max of a constant is twice the constant
    assert error(engine.embed(x)[:2048], 2 * layers[7][0].numpy()) <= FP64_FRONTEND
    assert error(engine.embed(x, head="mean")[:2048], layers[7][0].numpy()) <= FP64_FRONTEND
