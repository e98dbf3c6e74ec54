"""The frontend kernel's algorithm, built for the host, against FP64 and against other people's."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchlibrosa.stft import LogmelFilterBank, Spectrogram
from transformers import ASTFeatureExtractor

from fusion_engine import _core
from fusion_engine.frontend import FRONTENDS, Frontend, FrontendSpec, frontend_tables
from fusion_engine.frontend.frontend_spec import AST, PANNS_8K, PANNS_16K, PANNS_32K, VGGISH
from fusion_engine.frontend.mel import filter_bank
from fusion_engine.frontend.window import analysis_window

from .. import signals
from ..frontend import reference as matrices
from .log_mel import (
    SIGNALS,
    assert_within_bounds,
    padding_value,
    quiet,
    reference,
    stacked,
)

by_preset = pytest.mark.parametrize("spec", FRONTENDS.values(), ids=FRONTENDS.keys())
few = settings(deadline=None, max_examples=40)


def run(spec: FrontendSpec, clips: list[Any], **options: Any) -> NDArray[np.float32]:
    """Clips of one frame count as one call, with numbers that must not be read after each."""
    rows, lengths = stacked(clips, room=3)
    frames = options.pop("frames", spec.frames(len(clips[0])))
    return _core.log_mel_on_host_grid(
        frontend_tables(spec), rows, lengths=lengths, frames=frames, **options
    )


@by_preset
@pytest.mark.parametrize("signal", SIGNALS, ids=lambda f: f.__name__)
def test_against_fp64(spec: FrontendSpec, signal: Any) -> None:
    for seed in range(3):
        x = signal(1.317, spec.sample_rate, seed)
        assert_within_bounds(run(spec, [x])[0], reference(x, spec), spec)


@by_preset
@pytest.mark.parametrize("signal", SIGNALS, ids=lambda f: f.__name__)
def test_int16_is_x_over_32768_bit_for_bit(spec: FrontendSpec, signal: Any) -> None:
    x = np.round(signal(0.7, spec.sample_rate) * 32_767).astype(np.int16)
    x[:2] = -32_768, 32_767
    got = run(spec, [x])
    np.testing.assert_array_equal(got, run(spec, [x / np.float32(32_768)]))
    assert_within_bounds(got[0], reference(x, spec), spec)


@by_preset
def test_silence_is_the_floor_exactly(spec: FrontendSpec) -> None:
    x = signals.silence(0.5, spec.sample_rate)
    assert np.ptp(run(spec, [x])) == 0
    if spec.log == "db":
        assert (run(spec, [x]) == -100.0).all()


@few
@given(
    spec=st.sampled_from(list(FRONTENDS.values())), extra=st.integers(0, 4_000), seed=st.integers(0)
)
def test_every_length_from_the_shortest(spec: FrontendSpec, extra: int, seed: int) -> None:
    """From the first sample more than the reflection needs, or from one whole frame."""
    least = spec.n_fft // 2 + 1 if spec.padding == "reflect" else spec.win_length
    x = signals.speech_like(1.0, spec.sample_rate, seed % 2**32)[: least + extra]
    assert_within_bounds(run(spec, [x])[0], reference(x, spec), spec)


@few
@given(
    spec=st.sampled_from(list(FRONTENDS.values())),
    frames=st.integers(4, 40),
    beyond=st.lists(st.integers(0, 79), min_size=1, max_size=4),
    rows=st.integers(0, 11),
    pcm=st.booleans(),
)
def test_a_batch_of_different_lengths(
    spec: FrontendSpec, frames: int, beyond: list[int], rows: int, pcm: bool
) -> None:
    """The bits of a clip alone, zeros of log-mel after it, nothing read after its end."""
    clips = [
        signals.noise(1.0, spec.sample_rate, seed)[: spec.samples(frames) + more]
        for seed, more in enumerate(beyond)
    ]
    if pcm:
        clips = [np.round(x * 32_767).astype(np.int16) for x in clips]
    flags = np.zeros(len(clips), np.uint32)
    got = run(spec, clips, out_frames=frames + rows, flags=flags)
    assert got.shape == (len(clips), frames + rows, spec.n_mels)
    for row, x in zip(got, clips, strict=True):
        np.testing.assert_array_equal(row[:frames], run(spec, [x])[0])
        assert_within_bounds(row[:frames], reference(x, spec), spec)
    assert (got[:, frames:] == padding_value(spec)).all()
    assert not flags.any()


@by_preset
@pytest.mark.parametrize("missing", [1, 80, 1_000, None])
def test_a_short_clip_is_padded_with_zeros(spec: FrontendSpec, missing: int | None) -> None:
    """The reflection is at the end of the padded clip."""
    frames = 32
    least = spec.samples(frames)
    x = signals.noise(1.0, spec.sample_rate)[: least - missing if missing else 0]
    padded = np.pad(x, (0, least - len(x)))
    assert_within_bounds(run(spec, [x], frames=frames)[0], reference(padded, spec), spec)


@by_preset
def test_the_first_frames_of_a_clip(spec: FrontendSpec) -> None:
    x = signals.noise(0.5, spec.sample_rate)
    np.testing.assert_array_equal(run(spec, [x], frames=17)[0], run(spec, [x])[0, :17])


@by_preset
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_non_finite_sample_is_flagged(spec: FrontendSpec, value: float) -> None:
    clips = [signals.noise(0.3, spec.sample_rate, seed) for seed in range(3)]
    for position in (0, 1, spec.win_length, spec.samples(len(run(spec, clips)[0])) - 1):
        spoilt = [x.copy() for x in clips]
        spoilt[1][position] = value
        flags = np.zeros(3, np.uint32)
        run(spec, spoilt, flags=flags)
        np.testing.assert_array_equal(flags, [0, 1, 0])


@pytest.mark.parametrize("n_fft", [128, 256, 512, 1024, 2048])
@pytest.mark.parametrize("base", [PANNS_16K, VGGISH, AST], ids=lambda spec: spec.preset)
def test_every_fft_with_odd_windows_and_hops(base: FrontendSpec, n_fft: int) -> None:
    for win_length, hop, n_mels in [(n_fft, n_fft // 4, 32), (n_fft - 27, 77, 41)]:
        if base.padding == "reflect":
            win_length = n_fft
        spec = replace(
            base, n_fft=n_fft, win_length=win_length, hop_length=hop, n_mels=n_mels, f_min=200.0
        )
        x = signals.speech_like(0.4, spec.sample_rate)
        assert_within_bounds(run(spec, [x])[0], reference(x, spec), spec)


def torchlibrosa_log_mel(x: NDArray[np.float32], spec: FrontendSpec) -> NDArray[np.float32]:
    spectrogram = Spectrogram(
        n_fft=spec.n_fft,
        hop_length=spec.hop_length,
        win_length=spec.win_length,
        window="hann",
        center=True,
        pad_mode="reflect",
        freeze_parameters=True,
    )
    log_mel = LogmelFilterBank(
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        n_mels=spec.n_mels,
        fmin=spec.f_min,
        fmax=spec.f_max,
        ref=1.0,
        amin=1e-10,
        top_db=None,
        freeze_parameters=True,
    )
    with torch.no_grad():
        return np.asarray(log_mel(spectrogram(torch.from_numpy(x)[None]))[0, 0].numpy())


@pytest.mark.parametrize("spec", [PANNS_8K, PANNS_16K, PANNS_32K], ids=lambda spec: spec.preset)
def test_panns_is_torchlibrosas_on_noise(spec: FrontendSpec) -> None:
    x = signals.noise(1.03, spec.sample_rate)
    assert np.abs(run(spec, [x])[0] - torchlibrosa_log_mel(x, spec)).max() <= 1e-3


def test_ast_is_transformers() -> None:
    """Its FP64 NumPy path, which fills the rows after the clip likewise."""
    x = signals.noise(1.03, 16_000)
    extract = ASTFeatureExtractor(max_length=128)
    expected = extract(x, sampling_rate=16_000, return_tensors="np")["input_values"][0]
    got = run(AST, [x], out_frames=128)[0]
    # 1e-3 dB, as a normalised logarithm.
    assert np.abs(got - expected).max() <= 1e-3 / (10 / np.log(10) * 2 * AST.std)


def test_vggish_is_its_release() -> None:
    x = signals.noise(1.03, 16_000)
    assert np.abs(run(VGGISH, [x])[0] - matrices.vggish(x)).max() <= 1e-5


FAULTS: list[tuple[FrontendSpec, dict[str, Any]]] = [
    (PANNS_16K, {"window": "hann_symmetric"}),
    (PANNS_16K, {"mel_norm": "none"}),
    (PANNS_16K, {"spectrum": "magnitude"}),
    (PANNS_16K, {"f_min": 51.0}),
    (PANNS_16K, {"log": "ln_max"}),
    (PANNS_16K, {"pad_mode": "symmetric"}),
    (PANNS_16K, {"pad_mode": "constant"}),
    (AST, {"window": "hann"}),
    (AST, {"remove_dc": False}),
    (AST, {"preemphasis": 0.96}),
    (AST, {"mean": -4.268}),
    (VGGISH, {"mel_scale": "slaney"}),
    (VGGISH, {"log_offset": 0.011}),
]


@pytest.mark.parametrize(("spec", "fault"), FAULTS, ids=[f"{s.preset}-{f}" for s, f in FAULTS])
def test_the_bounds_catch_a_planted_fault(spec: FrontendSpec, fault: dict[str, Any]) -> None:
    x = signals.noise(0.5, 16_000) + np.float32(0.1)
    fault = dict(fault)
    pad_mode = fault.pop("pad_mode", "reflect")
    expected = reference(x, replace(spec, **fault), pad_mode=pad_mode)
    got = run(spec, [x])[0]
    assert_within_bounds(got, reference(x, spec), spec)
    with pytest.raises(AssertionError, match="dB near the peak"):
        assert_within_bounds(got, expected, spec)


def rounded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """By NumPy and PyTorch; BF16 as its bits."""
    if dtype == "bfloat16":
        return torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    with np.errstate(over="ignore"):
        return values.astype(dtype)


@by_preset
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_scale_and_an_offset_then_a_type(spec: FrontendSpec, dtype: str) -> None:
    """As a Mul, an Add and a Cast would have it, or a fused multiply-add; padding rows too."""
    rng = np.random.default_rng(0)
    affine = rng.normal([[0.1], [1.0]], [[0.05], [2.0]], (2, spec.n_mels)).astype(np.float32)
    rows, lengths = stacked([signals.noise(0.5, spec.sample_rate)])
    call = {"lengths": lengths, "frames": spec.frames(len(rows[0]))}
    call["out_frames"] = call["frames"] + 3
    log_mel = _core.log_mel_on_host_grid(frontend_tables(spec), rows, **call)
    tables = frontend_tables(spec, affine=affine, dtype=dtype)
    got = _core.log_mel_on_host_grid(tables, rows, **call)
    twice = rounded(log_mel * affine[0] + affine[1], dtype)
    exact = log_mel.astype(np.float64) * affine[0] + affine[1]
    once = rounded(exact.astype(np.float32), dtype)
    assert got.dtype == twice.dtype
    assert ((got == twice) | (got == once)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_to_half_precision(dtype: str) -> None:
    """Of numbers of all magnitudes, and those around ties, subnormals and the largest."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 3_500, dtype=np.uint32)
    ties = np.arange(0, 31_744, dtype=np.uint16).view(np.float16).astype(np.float32)
    half_way = (ties + np.append(ties[1:], np.float32(65_536))) / 2
    edges = [65_504, 65_519.996, 65_520, 2.0**-14, 2.0**-24, 2.0**-25, 3e-8, 3.4e38, 0.0]
    values = np.concatenate(
        [np.float32(edges), half_way[::50], -half_way[::99], bits.view(np.float32)]
    )
    values = values[np.isfinite(values)][:4_096]
    settings = {"filters": np.zeros((257, len(values))), "out_dtype": dtype}
    affine = np.stack([np.zeros_like(values), values])
    samples = np.zeros((1, 1_000), np.float32)
    got = _core.log_mel_on_host_grid(tables_of(affine=affine, **settings), samples, frames=1)
    # 0 times the log-mel, plus the value.
    np.testing.assert_array_equal(got[0, 0], rounded(values + np.float32(0), dtype))


@by_preset
@pytest.mark.parametrize("signal", [signals.noise, signals.speech_like], ids=lambda f: f.__name__)
def test_clips_of_different_lengths_have_their_own_frames(spec: FrontendSpec, signal: Any) -> None:
    """As each alone, its end reflected where it is, and padding after it; the shortest in zeros."""
    least, most = 7, 60
    lengths = [spec.samples(n) + extra for n, extra in ((60, 3), (33, 0), (8, 5), (7, 0), (3, 9))]
    clips = [signal(2.0, spec.sample_rate, seed)[:n] for seed, n in enumerate(lengths)]
    rows, counts = stacked(clips, room=3)
    tables = frontend_tables(spec)
    got = _core.log_mel_on_host_grid(
        tables, rows, lengths=counts, frames=most, least=least, out_frames=most + 4
    )
    for clip, row in zip(clips, got, strict=True):
        frames = max(least, spec.frames(len(clip)))
        alone = _core.log_mel_on_host_grid(tables, clip[None], frames=frames)
        np.testing.assert_array_equal(row[:frames], alone[0])
        assert (row[frames:] == padding_value(spec)).all()


def test_a_sample_that_is_no_number_is_none_in_half_precision() -> None:
    samples = np.full((1, 1_000), np.nan, np.float32)
    for dtype in ("float16", "bfloat16"):
        got = _core.log_mel_on_host_grid(tables_of(out_dtype=dtype), samples, frames=1)
        assert (got.view(np.uint16) == 0x7FFF).all()


def tables_of(spec: FrontendSpec = PANNS_16K, **changes: Any) -> _core.FrontendTables:
    settings = {
        "n_fft": spec.n_fft,
        "hop_length": spec.hop_length,
        "padding": spec.padding,
        "remove_dc": spec.remove_dc,
        "preemphasis": spec.preemphasis,
        "spectrum": spec.spectrum,
        "log": spec.log,
        "log_offset": spec.log_offset,
        "mean": spec.mean,
        "std": spec.std,
        "window": analysis_window(spec),
        "filters": filter_bank(spec),
    }
    return _core.FrontendTables(**{**settings, **changes})


def test_the_first_sample_is_emphasised_against_itself() -> None:
    """Which a Hann window, zero there, would hide."""
    x, window = signals.noise(0.3, 16_000), np.ones(AST.win_length)
    rows, lengths = stacked([x])
    got = _core.log_mel_on_host_grid(
        tables_of(AST, window=window), rows, lengths=lengths, frames=AST.frames(len(x))
    )
    assert_within_bounds(got[0], reference(x, AST, window=window), AST)


@pytest.mark.parametrize("n_fft", [64, 400, 500, 4_096])
def test_other_ffts_are_refused_when_the_tables_are_made(n_fft: int) -> None:
    spec = replace(PANNS_16K, n_fft=n_fft, win_length=min(n_fft, 400))
    with pytest.raises(ValueError, match=rf"n_fft is {n_fft};.*128 to 2048.*on the CPU"):
        frontend_tables(spec)
    Frontend(spec)  # which it then is


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hop_length": 0}, "hop_length is 0"),
        ({"padding": "constant"}, "padding is 'constant'; expected 'reflect' or 'none'"),
        ({"spectrum": "phase"}, "spectrum is 'phase'"),
        ({"log": "log2"}, "log is 'log2'"),
        ({"log_offset": 0.0}, "log_offset is 0"),
        ({"mean": np.nan}, "mean is nan"),
        ({"std": 0.0}, "1 / divisor is inf"),
        ({"window": np.ones(513)}, "win_length is 513; expected 1 to 512"),
        ({"window": np.ones((2, 2))}, r"window is float64 \(2, 2\)"),
        ({"affine": np.ones((2, 63))}, r"affine is float32 \(2, 63\); expected \[2, 64\]"),
        ({"affine": np.full((2, 64), np.inf)}, "affine is inf; expected a finite FP32 number"),
        ({"out_dtype": "float64"}, "out_dtype is 'float64'; expected"),
        ({"filters": np.ones((256, 64))}, r"filters is float64 \(256, 64\); expected \[257"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_that_are_none(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tables_of(**changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "frames is 0; expected 1 to"),
        ({"frames": 10, "out_frames": 9}, "out_frames is 9; expected 10 to"),
        ({"frames": 10, "least": 11}, "least is 11; expected 0 to 10"),
        ({"frames": 1, "lengths": np.array([1, 2])}, r"lengths is int64 \(2,\)"),
        ({"frames": 1, "lengths": np.array([1_001])}, r"lengths\[0\] is 1001"),
        ({"frames": 1, "flags": np.zeros(2, np.uint32)}, r"flags is uint32 \(2,\)"),
    ],
    ids=str,
)
def test_calls_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.log_mel_on_host_grid(tables_of(), np.zeros((1, 1_000), np.float32), **options)


def test_too_short_to_reflect() -> None:
    with pytest.raises(ValueError, match="at most 256 samples; expected at least 257"):
        _core.log_mel_on_host_grid(tables_of(), np.zeros((1, 256), np.float32), frames=1)


def test_arrays_that_are_none() -> None:
    with pytest.raises(TypeError, match="float64"):
        _core.log_mel_on_host_grid(tables_of(), np.zeros((1, 1_000)), frames=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="incompatible function arguments"):  # not a copy of them
        _core.log_mel_on_host_grid(
            tables_of(),
            np.zeros((1, 1_000), np.float32),
            frames=1,
            flags=np.zeros(1, np.int32),  # type: ignore[arg-type]
        )
    with pytest.raises(ValueError, match=r"\[B, N\], C-contiguous"):
        _core.log_mel_on_host_grid(tables_of(), np.zeros((2, 1_000), np.int16)[:, ::2], frames=1)


def test_quiet_signals_are_above_the_floor() -> None:
    """Otherwise they test nothing."""
    got = run(PANNS_16K, [quiet(0.5, 16_000)])
    assert (got > -99.0).any()
    assert (got == -100.0).any()
