from array import array

import numpy as np
import pyarrow
import pytest
import soxr
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusion_engine import AudioError, _core
from fusion_engine.audio import as_samples, batch_rows
from fusion_engine.audio.arrays import MAX_SAMPLE
from fusion_engine.frontend import FRONTENDS, Frontend, frontend_tables

from ..signals import SIGNALS, noise

RATES = [8_000, 11_025, 22_050, 44_100, 48_000, 96_000]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_samples_at_the_rate_wanted_are_untouched(dtype):
    x = (noise(0.1, 16_000) * (1 if dtype != np.int16 else 32_767)).astype(dtype)
    for rate in (None, 16_000, np.int64(16_000)):
        y = as_samples(x, source_rate=rate, sample_rate=16_000)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_resampling_is_soxr_hq(rate, dtype):
    x = SIGNALS["chirp"](0.3, rate).astype(dtype)
    y = as_samples(x, source_rate=rate, sample_rate=16_000)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, soxr.resample(x, rate, 16_000, quality="HQ"))


@pytest.mark.parametrize("rate", RATES)
def test_a_resampled_sine_is_the_sine(rate):
    def sine(at):
        return np.sin(2 * np.pi * 997.0 * np.arange(at) / at)

    y = as_samples(sine(rate), source_rate=rate, sample_rate=16_000)
    assert y.size == 16_000
    inside = slice(2_000, -2_000)  # clear of the filter's start and end
    # HQ is soxr's 20-bit recipe.
    assert np.abs(y - sine(16_000))[inside].max() < 2**-20


def test_int16_means_x_over_32768():
    x = (noise(0.1, 44_100) * 32_767).astype(np.int16)
    y = as_samples(x, source_rate=44_100, sample_rate=16_000)
    assert y.dtype == np.float32
    expected = as_samples((x / 32_768).astype(np.float32), source_rate=44_100, sample_rate=16_000)
    np.testing.assert_array_equal(y, expected)


def test_any_strides_and_byte_order():
    x = noise(0.1, 16_000)
    for same in (np.stack([x, x], axis=1)[:, 1], x[::-1].copy()[::-1], x.astype(">f4")):
        y = as_samples(same, source_rate=None, sample_rate=16_000)
        assert y.flags.c_contiguous
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, x)
        z = as_samples(same, source_rate=8_000, sample_rate=16_000)
        np.testing.assert_array_equal(z, soxr.resample(x, 8_000, 16_000, quality="HQ"))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(9, np.int32),
        np.zeros(9, np.uint8),
        np.zeros(9, np.uint16),
        np.zeros(9, np.int64),
        np.zeros(9, bool),
        np.zeros(9, np.complex64),
        np.zeros(9, np.float16),
        np.zeros(9, np.longdouble),
        np.zeros(9, object),
        np.array(["a"]),
        np.zeros(9, "datetime64[s]"),
        np.zeros(9, [("left", np.float32)]),
        [0.0, 0.5],
        b"\0\0",
        None,
    ],
    ids=lambda bad: str(getattr(bad, "dtype", type(bad).__name__)),
)
def test_other_types_are_type_errors(bad):
    with pytest.raises(TypeError, match=r"my clip .* expected .*float32"):
        as_samples(bad, source_rate=None, sample_rate=16_000, name="my clip")


@pytest.mark.parametrize("shape", [(), (2, 16_000), (16_000, 2), (1, 2, 3)])
def test_other_shapes_are_audio_errors(shape):
    with pytest.raises(AudioError, match=r"my clip has shape .*, expected one clip \[N\]"):
        as_samples(np.zeros(shape), source_rate=None, sample_rate=16_000, name="my clip")


def test_no_samples():
    with pytest.raises(AudioError, match="my clip: no samples"):
        as_samples(np.zeros(0), source_rate=None, sample_rate=16_000, name="my clip")


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_less_than_one_sample_after_resampling(dtype):
    for n in range(1, 20):
        x = np.ones(n, dtype)
        for source in (44_100, 96_000, 22_050, 1_000_000):
            if len(soxr.resample(x.astype(np.float32), source, 16_000, quality="HQ")):
                assert as_samples(x, source_rate=source, sample_rate=16_000).size
            else:
                with pytest.raises(AudioError, match="less than one at 16000 Hz"):
                    as_samples(x, source_rate=source, sample_rate=16_000)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_sample_that_is_not_finite_is_named(dtype, bad):
    x = noise(0.1, 16_000).astype(dtype)
    x[[123, 456]] = bad
    for rate in (None, 44_100):
        with pytest.raises(AudioError, match=f"my clip: sample 123 is {bad}"):
            as_samples(x, source_rate=rate, sample_rate=16_000, name="my clip")


@pytest.mark.parametrize("rate", [None, 44_100])
@pytest.mark.parametrize(
    ("dtype", "bad"),
    [(np.float32, 1.1e17), (np.float32, -3e38), (np.float64, 1e154), (np.float64, -1.7e308)],
)
def test_samples_that_would_overflow_are_named(rate, dtype, bad):
    x = noise(0.1, 16_000).astype(dtype)
    x[[123, 456]] = bad
    with pytest.raises(
        AudioError, match=r"my clip: sample 123 is -?[\d.]+e\+\d+, .*scale the clip"
    ):
        as_samples(x, source_rate=rate, sample_rate=16_000, name="my clip")


@pytest.mark.parametrize("preset", list(FRONTENDS.values()), ids=list(FRONTENDS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_samples_give_a_finite_log_mel(preset, dtype):
    """What is taken can be computed: in FP64, and in FP32 as a GPU does."""
    rate = preset.sample_rate
    x = (MAX_SAMPLE * SIGNALS["square"](0.3, rate)).astype(dtype)
    x = as_samples(x, source_rate=None, sample_rate=rate)
    assert np.abs(x).max() > 0.99 * MAX_SAMPLE
    assert np.isfinite(Frontend(preset)(x)).all()
    x = as_samples(x, source_rate=48_000, sample_rate=rate).astype(np.float32)
    frames = preset.frames(len(x))
    log_mel = _core.log_mel_on_host_grid(frontend_tables(preset), x[None], frames=frames)
    assert np.isfinite(log_mel).all()


def tensor(**options):
    return torch.zeros(16_000, **options)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (tensor(requires_grad=True), r"torch\.Tensor that requires grad.*\.detach\(\)"),
        (tensor(device="meta"), r"torch\.Tensor that NumPy cannot read"),
        (tensor(dtype=torch.bfloat16), r"torch\.Tensor that NumPy cannot read.*\.float\(\)"),
        (tensor().to_sparse(), r"torch\.Tensor that NumPy cannot read"),
        (np.ma.masked_less(noise(0.1, 16_000), 0), r"MaskedArray with \d+ masked .*\.filled\(0\)"),
        (memoryview(b"\0" * 64), "is memoryview, whose bytes say no sample format"),
        (bytearray(64), "is bytearray, whose bytes"),
        (array("f", [0.0] * 64), r"is array\.array, whose bytes.*np\.frombuffer"),
        (iter([0.0, 0.5]), "is list_iterator; expected"),
    ],
    ids=lambda value: value.replace("\\", "") if isinstance(value, str) else "",
)
def test_other_libraries_and_buffers(bad, message):
    with pytest.raises(TypeError, match=f"my clip .*{message}") as error:
        as_samples(bad, source_rate=None, sample_rate=16_000, name="my clip")
    assert "expected a NumPy array of float32" in str(error.value)


def test_what_other_libraries_can_share():
    x = noise(0.1, 16_000)
    odd = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32)
    assert not odd.flags.aligned
    read_only = x.copy()
    read_only.flags.writeable = False
    for same in (
        torch.from_numpy(x),
        np.ma.masked_array(x),
        np.ma.masked_array(x, mask=np.zeros(len(x), bool)),
        pyarrow.array(x),
        odd,
        read_only,
    ):
        for rate in (None, 8_000):
            y = as_samples(same, source_rate=rate, sample_rate=16_000)
            assert type(y) is np.ndarray
            assert y.flags.aligned
            expected = as_samples(x, source_rate=rate, sample_rate=16_000)
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("rate", [0, -1, 999, 1_000_001])
def test_rates_out_of_range(rate):
    with pytest.raises(ValueError, match=f"source_rate is {rate} Hz, expected 1000 to 1000000"):
        as_samples(np.zeros(9), source_rate=rate, sample_rate=16_000)
    with pytest.raises(ValueError, match=f"sample_rate is {rate} Hz"):
        as_samples(np.zeros(9), source_rate=None, sample_rate=rate)


@pytest.mark.parametrize("rate", [16_000.0, "16000", True])
def test_rates_that_are_no_integers(rate):
    with pytest.raises(TypeError, match="expected an integer"):
        as_samples(np.zeros(9), source_rate=rate, sample_rate=16_000)


def test_batch_rows():
    x = np.stack([noise(0.1, 16_000, seed) for seed in range(12)])
    rows = batch_rows(x)
    assert len(rows) == 12
    for row, expected in zip(rows, x, strict=True):
        np.testing.assert_array_equal(row, expected)
    assert batch_rows(x[:0]) == []


@given(clips=st.integers(0, 12), samples=st.integers(0, 12))
def test_batches_that_look_like_channels(clips, samples):
    x = np.zeros((clips, samples), np.float32)
    if 1 <= samples <= 8 and samples < clips:
        with pytest.raises(AudioError, match=r"looks like \[samples, channels\]"):
            batch_rows(x)
    else:
        assert len(batch_rows(x)) == clips


@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 3)])
def test_batches_of_other_shapes(shape):
    with pytest.raises(AudioError, match=r"expected \[B, N\]"):
        batch_rows(np.zeros(shape))
