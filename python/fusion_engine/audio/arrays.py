"""Samples that the caller has in memory: checked, and resampled to the model's rate."""

import operator
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError

# Outside of these a rate is a mistake or an attack: one sample at 1 Hz would become thousands.
MIN_RATE, MAX_RATE = 1_000, 1_000_000
# The most columns of a 2-D array that can be taken for channels (7.1 is 8).
MAX_CHANNELS = 8
# The frontends square a sum of up to n_fft samples: above this, 4·n_fft·x overflows FP32 on a GPU
# (n_fft up to 2048 there). FP64 would carry 1e146, but one clip has one answer everywhere.
MAX_SAMPLE = 1e15
INT16_SCALE = np.float32(1 / 32_768)
# A kind of ``AudioError``.
NO_SAMPLES = "no samples"


def check_rate(rate: Any, name: str = "sample_rate") -> int:
    """``rate`` as an int.

    Raises:
        TypeError: not an integer.
        ValueError: outside ``MIN_RATE``…``MAX_RATE``.
    """
    if isinstance(rate, bool | np.bool_) or not hasattr(rate, "__index__"):
        raise TypeError(f"{name} is {rate!r}, expected an integer number of Hz")
    value = operator.index(rate)
    if not MIN_RATE <= value <= MAX_RATE:
        raise ValueError(f"{name} is {value} Hz, expected {MIN_RATE} to {MAX_RATE} Hz")
    return value


def check_samples(samples: NDArray[Any], name: str, offset: int = 0) -> None:
    """Refuse NaN, Inf, and what would overflow in the frontend.

    Args:
        samples: [N] float32, float64 or int16.
        name: what errors call the clip.
        offset: added to the index that is reported.

    Raises:
        AudioError: names the first bad sample.
    """
    if samples.dtype == np.int16 or not samples.size:
        return
    # A NaN is the largest and the smallest: two passes without a copy.
    if max(samples.max(), -samples.min()) <= MAX_SAMPLE:
        return
    good = np.abs(samples) <= MAX_SAMPLE
    index = int(np.argmin(good))
    value = samples[index]
    mend = (
        "scale the clip, or remove the sample"
        if np.isfinite(value)
        else "remove or repair it (np.nan_to_num replaces NaN by zero)"
    )
    raise AudioError(
        f"{name}: sample {offset + index} is {value}, expected finite values in [-1, 1], and none "
        f"beyond ±{MAX_SAMPLE:g}, which overflow; {mend}",
        kind="samples that are not finite or overflow",
    )


def as_array(audio: Any, name: str, expected: str = "expected a NumPy array") -> NDArray[Any]:
    """An array, or what gives one by ``__array__``, as a plain ``numpy.ndarray``.

    Args:
        audio: what the caller gave.
        name: what errors call it.
        expected: what errors say was expected.

    Raises:
        TypeError: no array, one that NumPy cannot read, or one with masked samples.
    """
    kind = f"{type(audio).__module__}.{type(audio).__qualname__}".removeprefix("builtins.")
    if isinstance(audio, np.ma.MaskedArray):
        if np.ma.is_masked(audio):
            raise TypeError(
                f"{name} is a {kind} with {int(np.ma.getmaskarray(audio).sum())} masked "
                f"samples, which have no value; {expected}, so fill them, say with .filled(0)"
            )
        return np.asarray(audio.data)
    if isinstance(audio, np.ndarray):
        return audio.view(np.ndarray)
    if isinstance(audio, bytes | bytearray | memoryview | array):
        raise TypeError(
            f"{name} is {kind}, whose bytes say no sample format; {expected}. Raw samples become "
            "one with np.frombuffer(data, np.float32), and a path is a str or pathlib.Path"
        )
    if not hasattr(audio, "__array__"):
        raise TypeError(f"{name} is {kind}; {expected}")
    if getattr(audio, "requires_grad", False) is True:
        raise TypeError(f"{name} is a {kind} that requires grad; {expected}, so call .detach()")
    try:
        made: NDArray[Any] = np.asarray(audio)
        return made
    except MemoryError:
        raise
    except Exception as error:  # whatever the other library raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TypeError(
            f"{name} is a {kind} that NumPy cannot read ({reason}); {expected}, for example by "
            ".cpu().float() of a tensor"
        ) from error


def _check_type(audio: Any, name: str) -> NDArray[Any]:
    """``audio`` in native byte order, if its type is one that holds audio."""
    samples = as_array(audio, name, "expected a NumPy array of float32, float64 or int16 samples")
    native = samples.dtype.newbyteorder("=")
    if native not in (np.float32, np.float64, np.int16):
        raise TypeError(
            f"{name} has dtype {samples.dtype}, expected float32 or float64 in [-1, 1], or int16 "
            "PCM; scale other integers to [-1, 1] and convert with .astype(np.float32)"
        )
    return samples.astype(native, copy=False)


def _check_length(samples: int, source_rate: int, sample_rate: int, name: str) -> None:
    """Refuse a clip that holds not even one sample at ``sample_rate``."""
    if samples == 0:
        raise AudioError(f"{name}: no samples, expected at least one", kind=NO_SAMPLES)
    # soxr rounds the length to the nearest integer, half up.
    if (2 * samples * sample_rate + source_rate) // (2 * source_rate) == 0:
        raise AudioError(
            f"{name}: {samples} samples at {source_rate} Hz are less than one at {sample_rate} "
            "Hz; expected a longer clip",
            kind=NO_SAMPLES,
        )


def as_samples(
    audio: NDArray[Any],
    *,
    source_rate: int | None,
    sample_rate: int,
    name: str = "clip",
    check: bool = True,
) -> NDArray[Any]:
    """One clip, ready for the frontend.

    Args:
        audio: [N] float32 or float64 in [-1, 1] (not enforced: louder is taken as it is), or
            int16 PCM, which means x / 32768.
        source_rate: the samples' rate in Hz, ``None`` when it is ``sample_rate`` already.
        sample_rate: the rate wanted, in Hz.
        name: what errors call the clip.

    Returns:
        [n], contiguous, float32 or float64 as given; int16 stays int16 where nothing is
        resampled, else it becomes float32. Resampling is soxr's HQ.

    Raises:
        TypeError: not an array, or of another dtype (float16 too: it has 11 bits).
        ValueError: a rate out of range.
        AudioError: not 1-D, no samples, or a sample that is not finite or overflows.
    """
    sample_rate = check_rate(sample_rate)
    source = sample_rate if source_rate is None else check_rate(source_rate, "source_rate")
    samples = _check_type(audio, name)
    if samples.ndim != 1:
        raise AudioError(
            f"{name} has shape {list(samples.shape)}, expected one clip [N] of mono samples; "
            "average channels with .mean(axis=…)"
        )
    _check_length(samples.size, source, sample_rate, name)
    if check or source != sample_rate:
        check_samples(samples, name)
    if source == sample_rate:
        return np.require(samples, requirements=["C", "ALIGNED"])
    import soxr

    if samples.dtype == np.int16:
        samples = samples * INT16_SCALE
    resampled: NDArray[Any] = soxr.resample(
        np.require(samples, requirements=["C", "ALIGNED"]), source, sample_rate, quality="HQ"
    )
    return resampled


def batch_rows(audio: NDArray[Any], name: str = "audio") -> list[NDArray[Any]]:
    """The clips [N] of a batch [B, N], as views, each still to go through ``as_samples``.

    Raises:
        AudioError: not 2-D, or with so few columns (fewer than rows and at most 8) that they
            look like channels.
    """
    if audio.ndim != 2:
        raise AudioError(
            f"{name} has shape {list(audio.shape)}, expected [B, N]: B clips of N samples"
        )
    clips, length = audio.shape
    if 0 < length < clips and length <= MAX_CHANNELS:
        raise AudioError(
            f"{name} has shape {[clips, length]}, which looks like [samples, channels], expected "
            "[B, N]: average the channels with .mean(axis=1), or transpose it for a batch of them"
        )
    return list(audio)
