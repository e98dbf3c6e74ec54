import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from fusion_engine import AudioError
from fusion_engine.audio import as_samples, batch_rows

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


def test_overflow_in_the_resampler():
    x = np.finfo(np.float32).max * SIGNALS["square"](0.1, 44_100)
    with pytest.raises(AudioError, match="resampled: sample"):
        as_samples(x, source_rate=44_100, sample_rate=16_000)


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
