"""The reference's own arithmetic, apart from the engine."""

import numpy as np
import pytest
import torch

from fusion_engine.export import resolve
from fusion_engine.parity.reference import Reference
from fusion_engine.parity.statistics import ErrorMeter

from .. import oracles

FRAMES = 77


@pytest.fixture(scope="module")
def log_mel() -> np.ndarray:
    return oracles.random_log_mel(1, FRAMES)[0, 0].numpy()


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return resolve("cnn14").random_state(0)


def reference(state: dict[str, torch.Tensor], layers: tuple[int, ...], head="mean_max"):
    model = resolve("cnn14")
    return Reference(model, model.check_state(state, layers), layers, head)


def error(got: np.ndarray, expected: np.ndarray) -> float:
    meter = ErrorMeter()
    meter.add("clip", got, expected)
    return meter.result().error


@pytest.mark.parametrize("head", ["mean_max", "mean", "max"])
def test_fusion_is_the_equations(state, log_mel, head) -> None:
    """Against loops over channels, frequencies and windows, as Eq. 1 to 3 read."""
    got = reference(state, (2, 4), head).outputs(log_mel, "fp64")
    rows = []
    for name, pool in (("layer_2", 8), ("layer_4", 2)):
        channels, frames, bins = got[name].shape
        assert frames == FRAMES // (32 // pool)
        for c in range(channels):
            for f in range(bins):
                column = got[name][c, :, f]
                rows.append([column[pool * t : pool * (t + 1)].max() for t in range(FRAMES // 32)])
    z = np.array(rows)
    np.testing.assert_array_equal(got["frame_features"], z)
    mean, most = z.mean(axis=1), z.max(axis=1)
    expected = {"mean_max": mean + most, "mean": mean, "max": most}[head]
    np.testing.assert_allclose(got["embedding"], expected, rtol=1e-14)


def test_a_layer_that_pools_over_the_clip(state, log_mel) -> None:
    alone = reference(state, (7,)).outputs(log_mel, "fp64")
    assert alone.keys() == {"layer_7", "embedding"}
    np.testing.assert_array_equal(alone["embedding"], alone["layer_7"])
    beside = reference(state, (7, 1)).outputs(log_mel, "fp64")
    np.testing.assert_allclose(beside["embedding"][:2048], 2 * alone["layer_7"], rtol=1e-14)


def test_ast_segments_are_averaged_by_real_frames() -> None:
    model = resolve("ast").configured(frames=32, token=None)
    state = model.check_state(model.random_state(0), (1,))
    whole = Reference(model, state, (1,), "mean_max")
    log_mel = np.random.default_rng(0).standard_normal((40, 128)).astype(np.float32)
    got = whole.outputs(log_mel, "fp64")
    assert got["layer_1"].shape == (2, 768)
    expected = (32 * got["layer_1"][0] + 8 * got["layer_1"][1]) / 40
    np.testing.assert_allclose(got["embedding"], expected, rtol=1e-12)
    # Zeros of fbank, normalised.
    front = model.frontend
    padded = np.full((64, 128), -front.mean / (2 * front.std), np.float32)
    padded[:40] = log_mel
    np.testing.assert_array_equal(whole.outputs(padded, "fp64")["layer_1"], got["layer_1"])


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_half_precision_errs_as_pytorchs_own(state, log_mel, precision, dtype) -> None:
    """The error of products summed in FP32, beside that of the module cast and run as it is."""
    layers = (1, 3)
    mine = reference(state, layers)
    truth = mine.outputs(log_mel, "fp64")
    got = mine.outputs(log_mel, precision)
    model = mine.backbone
    tensors = model.check_state(state, layers)
    weight, bias, mean, var = (
        tensors[f"bn0.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    # What stays in FP32: PANNs' bn0; identity takes its place in the module that is cast.
    normalised = (torch.from_numpy(log_mel) - mean) / (var + 1e-5).sqrt() * weight + bias
    identity = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0 - 1e-5}
    native = {name: tensor.to(dtype) for name, tensor in tensors.items()} | {
        f"bn0.{part}": torch.full((64,), value, dtype=dtype) for part, value in identity.items()
    }
    with torch.inference_mode():
        outputs = model.reference(native, normalised.to(dtype)[None, None], layers)
    for number, tensor in zip(layers, outputs, strict=True):
        name = f"layer_{number}"
        assert tensor.dtype == dtype
        theirs = error(tensor[0].double().numpy(), truth[name])
        ours = error(got[name], truth[name])
        assert 0.7 < ours / theirs < 1.4
        # Every value is one of the low precision.
        as_half = torch.from_numpy(got[name]).to(dtype).double().numpy()
        np.testing.assert_array_equal(as_half, got[name])


def test_half_precision_overflows(state, log_mel) -> None:
    loud = dict(state)
    loud["conv_block1.bn1.weight"] = 3e4 * state["conv_block1.bn1.weight"]
    got = reference(loud, (1,)).outputs(log_mel, "fp16")["layer_1"]
    assert not np.isfinite(got).all()
