from statistics import fmean

import pytest

from fusion_engine.cli._pace import Pace


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_nothing_is_known_before_the_first_second(clock):
    pace = Pace(10, clock=clock)
    assert (pace.fraction, pace.audio, pace.speed, pace.left) == (0, 0, None, None)
    clock.now += 0.9
    pace.clip(0, 30)
    assert (pace.audio, pace.speed, pace.left) == (30, None, None)


def test_files_that_are_one_clip(clock):
    pace = Pace(10, clock=clock)
    for seconds in (5, 15):
        clock.now += 2
        pace.clip(0, seconds)
        pace.end(seconds)
    assert (pace.done, pace.audio, pace.elapsed, pace.speed) == (2, 20, 4, 5)
    assert pace.fraction == 0.2
    assert pace.left == 8 * 10 / 5  # eight more of the mean length


def test_a_long_file_moves_by_what_it_states(clock):
    pace = Pace(2, clock=clock)
    clock.now += 10
    for start in range(0, 900, 5):
        pace.clip(start, start + 5)
    assert (pace.fraction, pace.file_fraction) == (0, None)
    pace.length = 3_600
    assert (pace.fraction, pace.file_fraction) == (0.125, 0.25)
    assert pace.speed == 90
    assert pace.left == (2_700 + 3_600) / 90  # the rest of it, and another as long
    pace.length = 800  # what it states is less than there is
    assert (pace.fraction, pace.left) == (0.5, 900 / 90)
    pace.end(900)
    assert (pace.fraction, pace.file_fraction, pace.audio) == (0.5, None, 900)


def test_a_long_file_after_many_short_ones(clock):
    """By the files alone there would be nothing left to do."""
    pace = Pace(1_001, clock=clock)
    for _ in range(1_000):
        clock.now += 0.01
        pace.clip(0, 1)
        pace.end(1)
    clock.now += 10
    pace.clip(0, 1_000)
    pace.length = 10_000
    assert pace.speed == pytest.approx(100)
    assert pace.left == pytest.approx(90)


def test_files_that_were_looked_at_are_not_guessed(clock):
    pace = Pace(6, 1, lengths=[10, 1_000, 20, None, 40], clock=clock)
    clock.now += 1
    pace.clip(0, 10)
    pace.end(10)
    assert pace.left == 4 * fmean([1_000, 20, 40]) / 10
    clock.now += 9
    pace.clip(0, 490)
    pace.length = 1_000
    assert pace.left == (510 + 3 * 30) / 50


def test_a_sample_of_files(clock):
    """Short files come first, long ones last."""
    pace = Pace(1_000, lengths=[1.0] * 50 + [100.0] * 50, clock=clock)
    for done in range(1, 901):
        clock.now += 1
        pace.clip(0, 1)
        pace.end(1)
        if done in (500, 900):
            assert pace.left == pytest.approx(100 * (1_000 - done))
    assert Pace(2, lengths=[None, None], clock=clock).left is None


@pytest.mark.parametrize(
    ("window", "hop", "count", "duration"),
    [(5, 5, 4, 20), (5, 2.5, 7, 20), (1, 10, 2, 20), (5, 5, 5, 21), (5, 5, 4, 22)],
    ids=["", "overlap", "gaps", "padded", "dropped"],
)
def test_windows_of_whole_recordings_add_up_to_them(clock, window, hop, count, duration):
    pace = Pace(1, gap=max(0, hop - window), clock=clock)
    for number in range(count):
        pace.clip(number * hop, number * hop + window)
        pace.clip(number * hop, number * hop + window)  # of another channel
    pace.end(duration)
    assert pace.audio == duration


def test_parts_of_recordings(clock):
    pace = Pace(1, clock=clock)
    pace.clip(10, 20)
    pace.clip(15, 17)
    pace.clip(50, 60)
    pace.end(None)
    assert pace.audio == 20


def test_only_what_this_run_does_counts(clock):
    """50 files are done, and of the next there are the rows of the first 600 s."""
    pace = Pace(52, 50, clock=clock)
    assert (pace.done, pace.ended, pace.fraction) == (50, 0, 50 / 52)
    clock.now += 10
    pace.clip(600, 700)
    pace.length = 1_000
    assert (pace.audio, pace.speed, pace.file_fraction) == (100, 10, 0.7)
    assert pace.left == (300 + 400) / 10
    pace.end(1_000)
    assert (pace.audio, pace.ended) == (100, 1)


def test_files_that_fail_give_no_audio(clock):
    pace = Pace(4, clock=clock)
    clock.now += 2
    pace.clip(0, 10)
    pace.end(10)
    pace.clip(0, 30)
    pace.fail()
    pace.fail()
    assert (pace.done, pace.audio, pace.left) == (3, 10, pytest.approx(10 / 3 / 5))
