import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchlibrosa.stft import LogmelFilterBank, Spectrogram

from fusion_engine.frontend import FRONTENDS, Frontend
from fusion_engine.frontend.frontend_spec import AST, PANNS_8K, PANNS_16K, PANNS_32K, VGGISH

from .. import signals
from . import reference

PANNS = [PANNS_8K, PANNS_16K, PANNS_32K]

# Half a unit in the last place of an FP32 number in [64, 128) is 3.8e-6 dB; the rest is for the
# FP64 sums of either side, 1e-7 dB just above the floor under a full-scale tone.
DB_TOLERANCE = 5e-6
# The same for logarithms and normalised values below 16 (half a unit in the last place 4.8e-7).
LN_TOLERANCE = 6e-7


def by_preset(*specs):
    return pytest.mark.parametrize("spec", specs, ids=lambda spec: spec.preset)


def clip(spec, seconds=1.0, seed=0, signal=signals.speech_like):
    return signal(seconds, spec.sample_rate, seed)


def largest_error(got, expected):
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    return np.abs(got - expected).max()


def quiet(seconds, rate, seed=0):
    """Just above the floor of 10·log10 at its frequency, at the floor elsewhere."""
    return np.float32(3e-6) * signals.chirp(seconds, rate, seed)


@by_preset(*PANNS)
@pytest.mark.parametrize("signal", [*signals.SIGNALS.values(), quiet], ids=lambda f: f.__name__)
def test_panns_against_fp64(spec, signal):
    x = clip(spec, 3.17, signal=signal)
    assert largest_error(Frontend(spec)(x), reference.panns(x, spec)) <= DB_TOLERANCE


@by_preset(*PANNS)
@pytest.mark.parametrize("extra", [0, 1, 2, 7, 8, 77, 78, 79, 80, 81])
def test_panns_at_awkward_lengths(spec, extra):
    """From the shortest clip that can be reflected, and around whole hops and whole blocks."""
    frontend = Frontend(spec)
    block = (32_768 // spec.n_fft) * spec.hop_length
    for least in (spec.n_fft // 2 + 1, spec.samples(32), block - 40, 2 * block - 40):
        x = clip(spec, 3)[: least + extra]
        assert len(x) == least + extra
        got = frontend(x)
        assert len(got) == spec.frames(len(x))
        assert largest_error(got, reference.panns(x, spec)) <= DB_TOLERANCE


@by_preset(*PANNS)
def test_panns_30_seconds(spec):
    x = clip(spec, 30, signal=signals.chirp)
    assert largest_error(Frontend(spec)(x), reference.panns(x, spec)) <= DB_TOLERANCE


@by_preset(*PANNS)
def test_silence_is_the_floor_exactly(spec):
    assert (Frontend(spec)(clip(spec, signal=signals.silence)) == -100.0).all()


@pytest.mark.parametrize("fault", [{"periodic": False}, {"pad_mode": "constant"}, {"htk": True}])
@by_preset(*PANNS)
def test_a_planted_fault_shows(spec, fault):
    x = clip(spec)
    assert largest_error(Frontend(spec)(x), reference.panns(x, spec, **fault)) > 1e3 * DB_TOLERANCE


def torchlibrosa_power_and_db(x, spec):
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
        power = spectrogram(torch.from_numpy(x)[None])
        return power[0, 0].numpy(), log_mel(power)[0, 0].numpy()


@by_preset(*PANNS)
def test_panns_is_torchlibrosas_on_noise(spec):
    x = clip(spec, 2.03, signal=signals.noise)
    _, db = torchlibrosa_power_and_db(x, spec)
    assert largest_error(Frontend(spec)(x), db.astype(np.float64)) <= 1e-3


@by_preset(*PANNS)
@pytest.mark.parametrize("signal", signals.SIGNALS.values(), ids=lambda f: f.__name__)
def test_panns_is_torchlibrosas_within_its_fp32(spec, signal):
    """torchlibrosa sums n_fft products in FP32, so its error is relative to the frame's peak.

    Measured: 1e-5 dB on noise, up to 0.1 dB far below the peak of a tone or a chirp.
    """
    x = clip(spec, 2.03, signal=signal)
    power, db = torchlibrosa_power_and_db(x, spec)
    ours, theirs = (10.0 ** (v.astype(np.float64) / 10.0) for v in (Frontend(spec)(x), db))
    # FP32 sums: measured at most 0.006·eps of the peak (a mel weight is at most 0.05).
    bound = 0.05 * np.finfo(np.float32).eps * power.max(axis=1, keepdims=True)
    # FP32 dB on both sides: two roundings each, as a relative error of the power.
    bound = bound + 4 * 3.8e-6 * np.log(10) / 10 * ours
    assert (np.abs(ours - theirs) <= bound).all()


LENGTHS_400 = [400, 401, 559, 560, 561, 15_600, 16_383, 48_000]


@pytest.mark.parametrize("signal", [*signals.SIGNALS.values(), quiet], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (VGGISH, reference.vggish),
        (AST, reference.ast),
        (
            replace(AST, mean=-6.6, std=5.4),
            lambda x: reference.ast(x, mean=-6.6, std=5.4),
        ),
    ],
    ids=["vggish", "ast", "ast_other_statistics"],
)
def test_vggish_and_ast_against_fp64(spec, expected, signal):
    frontend = Frontend(spec)
    x = clip(spec, 3, signal=signal)
    for samples in LENGTHS_400:
        assert largest_error(frontend(x[:samples]), expected(x[:samples])) <= LN_TOLERANCE


@pytest.mark.parametrize(
    "fault",
    [
        {"window": "hann"},
        {"remove_dc": False},
        {"preemphasis": 0.0},
        {"spectrum": "magnitude"},
        {"mel_scale": "slaney"},
        {"log": "ln_add"},
        {"std": None},
    ],
    ids=str,
)
def test_every_ast_setting_matters(fault):
    x = clip(AST) + np.float32(0.01)
    wrong = Frontend(replace(AST, **fault))(x)
    assert largest_error(wrong, reference.ast(x)) > 100 * LN_TOLERANCE


@by_preset(*FRONTENDS.values())
def test_int16_is_x_over_32768(spec):
    pcm = np.round(clip(spec) * 32_767).astype(np.int16)
    pcm[:2] = -32_768, 32_767
    frontend = Frontend(spec)
    expected = frontend((pcm / 32_768).astype(np.float32))
    np.testing.assert_array_equal(frontend(pcm), expected)
    np.testing.assert_array_equal(frontend(pcm / 32_768), expected)


def test_float64_is_not_rounded_to_float32():
    x = signals.speech_like(1.0, 16_000).astype(np.float64) / 3
    frontend = Frontend(PANNS_16K)
    assert largest_error(frontend(x), reference.panns(x, PANNS_16K)) <= DB_TOLERANCE
    assert (frontend(x) != frontend(x.astype(np.float32))).any()


@by_preset(*FRONTENDS.values())
def test_a_clip_gives_the_same_bits_wherever_it_is_computed(spec):
    """Alone, in batches of any size and order, and while other threads compute other clips."""
    frontend = Frontend(spec)
    clips = [clip(spec, 2.5, seed) for seed in range(6)]
    alone = [frontend(x) for x in clips]
    batch = frontend.batch(clips)
    assert batch.shape == (6, 1, *alone[0].shape)
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch[:, 0], alone)
    np.testing.assert_array_equal(frontend.batch(clips[2:3])[0, 0], alone[2])
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(6), 10))
    with ThreadPoolExecutor(8) as pool:
        for index, got in zip(order, pool.map(lambda i: frontend(clips[i]), order), strict=True):
            np.testing.assert_array_equal(got, alone[index])


def test_a_batch_takes_clips_of_different_lengths_but_one_frame_count():
    frontend = Frontend(PANNS_16K)
    clips = [clip(PANNS_16K)[:8_000], clip(PANNS_16K)[:8_159]]
    batch = frontend.batch(clips)
    for row, x in zip(batch, clips, strict=True):
        np.testing.assert_array_equal(row[0], frontend(x))


def test_strided_and_read_only_samples_are_taken_as_they_are():
    frontend = Frontend(PANNS_16K)
    x = clip(PANNS_16K)
    stereo = np.stack([x, -x], axis=1)
    stereo.flags.writeable = False
    np.testing.assert_array_equal(frontend(stereo[:, 0]), frontend(x))
    np.testing.assert_array_equal(frontend(x[::-1][::-1]), frontend(x))
    np.testing.assert_array_equal(x, clip(PANNS_16K))


@by_preset(*FRONTENDS.values())
def test_threads_over_a_batch_change_no_bit(spec):
    clips = [clip(spec, 1.3, seed) for seed in range(5)]
    threaded = Frontend(spec, threads=3)
    with ThreadPoolExecutor(4) as pool:  # callers share it
        batches = list(pool.map(lambda _: threaded.batch(clips), range(8)))
    expected = Frontend(spec).batch(clips)
    assert all(np.array_equal(batch, expected) for batch in batches)


@by_preset(*FRONTENDS.values())
def test_memory_beyond_the_log_mel_is_a_block(spec):
    x = np.zeros(600 * spec.sample_rate, np.int16)
    frontend = Frontend(spec)
    frontend(x[: spec.samples(32)])
    tracemalloc.start()
    try:
        log_mel = frontend(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A block is 131 072 FFT points: windowed frames, spectrum, two powers, and AST's two copies.
    assert peak - log_mel.nbytes < 8 * 131_072 * 8


@by_preset(*PANNS)
def test_too_short_to_reflect(spec):
    x = clip(spec)[: spec.n_fft // 2]
    with pytest.raises(ValueError, match=rf"{len(x)} samples.*at least {len(x) + 1}"):
        Frontend(spec)(x)


@by_preset(VGGISH, AST)
def test_too_short_for_a_frame(spec):
    with pytest.raises(ValueError, match=r"399 samples.*at least 400"):
        Frontend(spec)(clip(spec)[:399])


@by_preset(*FRONTENDS.values())
def test_empty(spec):
    with pytest.raises(ValueError, match="0 samples"):
        Frontend(spec)(np.zeros(0, np.float32))


@pytest.mark.parametrize("shape", [(), (2, 16_000), (16_000, 1)])
def test_shape(shape):
    with pytest.raises(ValueError, match=r"shape \[N\]"):
        Frontend(PANNS_16K)(np.zeros(shape, np.float32))


@pytest.mark.parametrize("dtype", ["int32", "uint8", "float16", "complex64", "bool"])
def test_type(dtype):
    with pytest.raises(TypeError, match=f"got {dtype}"):
        Frontend(PANNS_16K)(np.zeros(16_000, dtype))


def test_batches_that_are_none():
    frontend = Frontend(PANNS_16K)
    with pytest.raises(ValueError, match="0 clips"):
        frontend.batch([])
    x = clip(PANNS_16K)
    with pytest.raises(ValueError, match=r"2 clips of \[51, 101\] frames"):
        frontend.batch([x, x[:8_000]])


def test_it_can_be_sent_to_another_process():
    frontend = Frontend(FRONTENDS["panns_16k"])
    x = signals.chirp(0.5, 16_000)
    sent = pickle.loads(pickle.dumps(frontend))
    np.testing.assert_array_equal(sent.batch([x, x]), frontend.batch([x, x]))
