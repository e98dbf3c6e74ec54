"""What is seen of long probing where there is no terminal."""

import re

import pytest

from fusion_engine.cli.probe._bars import Bars


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_line_every_half_minute(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    with Bars(clock) as bars:
        bars.expect(2)
        # 64 of 164 were kept from before; then one a second.
        bars.show("birds: embedding", 0, 164)
        for done in range(64, 164):
            bars.show("birds: embedding", done, 164)
            clock.now += 1
        bars.result("birds: 50.0 %", output=True)
    told, errors = capfd.readouterr()
    assert told == "birds: 50.0 %\n"
    assert errors.splitlines() == [
        "birds: embedding: 94 of 164 (57 %), 30 s, about 70 s left; 0 of 2 results",
        "birds: embedding: 124 of 164 (75 %), 1 min 0 s, about 40 s left; 0 of 2 results",
        "birds: embedding: 154 of 164 (93 %), 1 min 30 s, about 10 s left; 0 of 2 results",
    ]


def test_short_work_says_nothing(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    with Bars(clock) as bars:
        for done in range(11):
            bars.show("birds: training", done, 10)
            clock.now += 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("each", "words"), [(1.0, "70 s"), (60.0, "70 min"), (360.0, "7 h"), (0.5, None)]
)
def test_what_is_left_is_in_fitting_units(
    each: float, words: str | None, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    with Bars(clock) as bars:
        for done in range(31):
            bars.show("x", done, 100)
            clock.now += each
    lines = capfd.readouterr().err.splitlines()
    assert bool(lines) == (words is not None)
    if words is not None:
        assert any(
            re.fullmatch(rf"x: 30 of 100 \(30 %\), .*, about {words} left", line) for line in lines
        )
