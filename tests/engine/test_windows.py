"""Where windows begin and end, against decimal arithmetic."""

from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_engine.engine.windows import Windows

seconds = st.decimals("0.01", "20", places=3)
rates = st.sampled_from([8_000, 16_000, 32_000])


def start(number, hop, rate):
    return int((number * hop * rate).quantize(Decimal(1), ROUND_HALF_UP))


@given(window=seconds, hop=seconds, rate=rates, number=st.integers(0, 10**7))
def test_starts_are_rounded_once(window, hop, rate, number):
    windows = Windows(float(window), float(hop), sample_rate=rate)
    assert windows.start(number) == start(number, hop, rate)
    assert windows.length == start(1, window, rate)


def test_nothing_drifts_in_a_day():
    windows = Windows(1.0, 0.1, sample_rate=44_100)
    assert windows.start(10 * 86_400 - 10) == 86_399 * 44_100
    thirds = Windows(1.0, 1 / 3, sample_rate=8_000)
    # A third as the caller wrote it, with sixteen digits.
    assert thirds.start(3 * 86_400) == 86_400 * 8_000


def cut(total, window, hop, tail, rate):
    """Starts and lengths, by walking."""
    length, found, number = start(1, window, rate), [], 0
    while start(number, hop, rate) + length <= total:
        found.append((start(number, hop, rate), length))
        number += 1
    begin = start(number, hop, rate)
    left = total - begin
    if left > 0 and (tail in ("keep", "pad") or (tail == "half" and 2 * left >= length)):
        found.append((begin, length if tail == "pad" else left))
    return found


@given(
    window=st.decimals("0.001", "0.2", places=4),
    hop=st.decimals("0.001", "0.3", places=4),
    tail=st.sampled_from(["half", "keep", "pad", "drop"]),
    total=st.integers(0, 20_000),
)
def test_the_count(window, hop, tail, total):
    windows = Windows(float(window), float(hop), tail=tail, sample_rate=8_000)
    expected = cut(total, window, hop, tail, 8_000)
    assert windows.count(total) == len(expected)
    whole = [pair for pair in expected if pair[0] + pair[1] <= total and pair[1] == windows.length]
    last = windows.last(total, len(whole))
    assert (last is None) == (len(whole) == len(expected))
    if last is not None:
        assert expected[-1] == (windows.start(len(whole)), last)


@pytest.mark.parametrize(
    ("window", "hop", "tail", "message"),
    [
        (0.0, None, "half", "window is 0.0 s, expected at least one sample"),
        (-1.0, None, "half", "window is -1.0 s, expected"),
        (float("nan"), None, "half", "window is nan s, expected a number"),
        (1.0, float("inf"), "half", "hop is inf s, expected a number"),
        (1.0, 1e-5, "half", r"hop is 1e-05 s, expected at least one sample \(1/16000 s\)"),
        (1.0, None, "cut", "tail is 'cut', expected one of"),
    ],
)
def test_what_is_no_window(window, hop, tail, message):
    with pytest.raises(ValueError, match=message):
        Windows(window, hop, tail=tail, sample_rate=16_000)
