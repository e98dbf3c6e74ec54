"""VGGish-Fusion and AST-Fusion from samples to embedding, against other people's models.

The three comparisons of ``test_parity``: (a) the same log-mel, (b) with an FP64 frontend, (c) the
stock model with its own input code.
"""

import numpy as np
import pytest
import torch

import fusion_engine as fe
from fusion_engine.frontend import FRONTENDS, Frontend

from .. import oracles, signals
from ..exports import VGGISH_LAYERS, with_layers
from ..frontend import reference
from .test_parity import FP64_FRONTEND, SAME_LOG_MEL, STOCK, clip, error

RATE = 16_000
POOLS = {2: 16, 5: 8, 8: 4, 10: 4, 13: 2, 15: 2}
AST_FRAMES = 98
AST_MEAN, AST_STD = -4.2677393, 4.5689974


def tensor(log_mel):
    return torch.from_numpy(np.ascontiguousarray(log_mel, dtype=np.float32))


# VGGish


@pytest.fixture(scope="module")
def vggish(torchvggish, vggish_all):
    """torchvggish's model, and an engine with its weights and all layers."""
    return torchvggish, fe.Engine(vggish_all.path)


def segments(log_mel):
    """[S, 1, 96, 64] of whole segments."""
    count = len(log_mel) // 96
    return log_mel[: 96 * count].reshape(count, 1, 96, 64)


def whole_segment(x):
    """A clip under one segment is zero-padded to one, of 15 600 samples."""
    return np.pad(x, (0, max(0, 15_600 - len(x))))


def stock_vggish(x):
    from torchvggish.vggish_input import waveform_to_examples

    samples = whole_segment(x).astype(np.float64)
    return waveform_to_examples(samples, RATE, return_tensor=True).detach()


def fused_vggish(layers):
    """Eq. 1 to 3 over all segments in time order: frame features [D, 6·S] and embedding."""
    features = []
    for number in VGGISH_LAYERS:
        x = layers[number].double()
        if x.ndim == 4:
            x = torch.nn.functional.max_pool2d(x, (POOLS[number], 1))
            x = x.permute(0, 1, 3, 2).flatten(1, 2)
        else:
            x = x[:, :, None].expand(-1, -1, 6)
        features.append(x)
    z = torch.cat(list(torch.cat(features, dim=1)), dim=1)
    return z.numpy(), (z.mean(dim=1) + z.amax(dim=1)).numpy()


def vggish_errors(engine, x, layers):
    features, embedding = fused_vggish(layers)
    outputs = engine.layer_outputs(x)
    worst = [error(outputs[f"layer_{n}"], layers[n].numpy()) for n in VGGISH_LAYERS]
    return max(*worst, error(engine.embed_frames(x), features), error(engine.embed(x), embedding))


@pytest.mark.parametrize(
    "seconds", [0.3, 0.96, 1.0, 7.3, pytest.param(30.0, marks=pytest.mark.slow)]
)
def test_vggish_three_comparisons(vggish, seconds):
    model, engine = vggish
    x = clip(seconds, RATE)
    ours = segments(Frontend(FRONTENDS["vggish"])(whole_segment(x)))
    exact = segments(reference.vggish(whole_segment(x)))
    same, exact, stock = (
        oracles.vggish_layers(model, tensor(log_mel)) for log_mel in (ours, exact, stock_vggish(x))
    )
    off = max(error(stock[n].numpy(), exact[n].numpy()) for n in VGGISH_LAYERS)
    a, b, c = (vggish_errors(engine, x, layers) for layers in (same, exact, stock))
    print(f"vggish {seconds} s: (a) {a:.1e}, (b) {b:.1e}, (c) {c:.1e}, stock off by {off:.1e}")
    assert a <= SAME_LOG_MEL
    assert b <= FP64_FRONTEND
    assert c <= STOCK + 2 * off


def test_vggish_frames_are_in_time_order(vggish):
    model, engine = vggish
    x = np.concatenate([signals.tone(0.96, RATE, 1), signals.noise(0.96, RATE), clip(1.1, RATE)])
    layers = oracles.vggish_layers(model, tensor(segments(reference.vggish(x))))
    frames, expected = engine.embed_frames(x), fused_vggish(layers)[0]
    assert frames.shape[1] == 18
    assert error(frames, expected) <= FP64_FRONTEND
    swapped = expected.reshape(-1, 3, 6)[:, [1, 0, 2]].reshape(expected.shape)
    assert error(frames, swapped) > FP64_FRONTEND


def test_vggish_in_any_company_and_run(vggish, monkeypatch):
    engine = vggish[1]
    clips = [clip(seconds, RATE) for seconds in (0.3, 1.0, 2.9, 1.0, 7.3)]
    alone = [engine.embed(x) for x in clips]
    for got, expected in zip(engine.embed(clips), alone, strict=True):
        assert np.array_equal(got, expected)
    # Run by run, as a clip of over a minute is.
    monkeypatch.setattr("fusion_engine.engine.cut.RUN_SECONDS", 2.0)
    for x, expected in zip(clips, alone, strict=True):
        assert error(engine.embed(x), expected) <= 1e-6


# AST


@pytest.fixture(scope="module")
def ast(ast_classifier, ast_second, tmp_path_factory):
    """transformers' model, the artifact of layers 5 and 12 for one second, and its engine."""
    path = tmp_path_factory.mktemp("ast") / "ast.onnx"
    with_layers(ast_second.path, path, [5, 12])
    yield ast_classifier.audio_spectrogram_transformer, path, fe.Engine(path)
    path.unlink()  # 340 MB, and pytest keeps the folders of the last runs


def ast_segments(log_mel, mean=AST_MEAN, std=AST_STD):
    """[S, 1, 98, 128]: the last one padded with what zeros become, and its real frames."""
    count = -(-len(log_mel) // AST_FRAMES)
    out = np.full((count * AST_FRAMES, 128), (0 - mean) / (2 * std))
    out[: len(log_mel)] = log_mel
    real = np.minimum(AST_FRAMES, len(log_mel) - AST_FRAMES * np.arange(count))
    return out.reshape(count, 1, AST_FRAMES, 128), real


def fused_ast(model, log_mel):
    """Segments' vectors [D, S] and layers, by the model's own mean of its two tokens."""
    layers = oracles.ast_layers(model, tensor(log_mel), eps=1e-6)  # of the original format
    vectors = [layers[number][:, :2].double().mean(dim=1) for number in (5, 12)]
    return torch.cat(vectors, dim=1).T.numpy()


def ast_errors(engine, x, columns, real):
    outputs = engine.layer_outputs(x)
    return max(
        error(outputs["layer_5"], columns[:768].T),
        error(outputs["layer_12"], columns[768:].T),
        error(engine.embed_frames(x), columns),
        error(engine.embed(x), columns @ (real / real.sum())),
    )


@pytest.mark.parametrize("seconds", [0.02, 0.5, 1.0, 2.4])
def test_ast_three_comparisons(ast, seconds):
    model, _, engine = ast
    x = clip(seconds, RATE)
    padded = np.pad(x, (0, max(0, 400 - len(x))))
    ours, real = ast_segments(Frontend(FRONTENDS["ast"])(padded))
    exact, _ = ast_segments(reference.ast(padded))
    columns = fused_ast(model, exact)
    a = ast_errors(engine, x, fused_ast(model, ours), real)
    b = ast_errors(engine, x, columns, real)
    print(f"ast {seconds} s: (a) {a:.1e}, (b) {b:.1e}")
    assert a <= SAME_LOG_MEL
    assert b <= FP64_FRONTEND
    if 400 <= len(x) <= RATE:
        from transformers import ASTFeatureExtractor

        extract = ASTFeatureExtractor(max_length=AST_FRAMES)
        log_mel = extract(x, sampling_rate=RATE, return_tensors="np")["input_values"]
        stock = fused_ast(model, log_mel[:, None])
        off = error(stock, columns)
        c = ast_errors(engine, x, stock, real)
        print(f"(c) {c:.1e}, stock off by {off:.1e}")
        assert c <= STOCK + 2 * off


def test_ast_in_any_company(ast):
    engine = ast[2]
    clips = [clip(seconds, RATE) for seconds in (0.5, 1.0, 2.4, 1.0)]
    for got, x in zip(engine.embed(clips), clips, strict=True):
        assert np.array_equal(got, engine.embed(x))


def test_ast_with_a_tasks_own_normalisation(ast):
    model, path, plain = ast
    mean, std = -6.0, 3.5
    engine = fe.Engine(path, normalization=(mean, std))
    x = clip(0.5, RATE)
    log_mel, real = ast_segments(reference.ast(x, mean=mean, std=std), mean, std)
    assert ast_errors(engine, x, fused_ast(model, log_mel), real) <= FP64_FRONTEND
    assert error(plain.embed(x), engine.embed(x)) > FP64_FRONTEND
    for wrong in ((0.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="a std above 0"):
            fe.Engine(path, normalization=wrong)


def test_planted_segment_faults_fail(ast):
    model, _, engine = ast
    x = clip(2.4, RATE)
    log_mel, real = ast_segments(reference.ast(x))
    columns = fused_ast(model, log_mel)
    embedding = engine.embed(x)
    assert error(embedding, columns @ (real / real.sum())) <= FP64_FRONTEND
    assert error(embedding, columns.mean(axis=1)) > FP64_FRONTEND
    silent = np.where(np.arange(3 * AST_FRAMES)[:, None] < real.sum(), log_mel.reshape(-1, 128), 0)
    wrong = fused_ast(model, silent.reshape(log_mel.shape))
    assert error(embedding, wrong @ (real / real.sum())) > FP64_FRONTEND
