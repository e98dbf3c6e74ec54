import pytest

from fusion_engine.cli._plain import PlainProgress, about, span


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


def test_a_line_every_half_minute():
    clock, lines = Clock(), []
    progress = PlainProgress(lines.append, clock)
    for done in range(0, 10_001, 100):  # 6 files/s
        clock.now = 1_000 + done / 6
        progress.show("Embedding", done, 10_000)
    assert lines[0] == "Embedding: 200 of 10000 (2 %), 33 s, about 28 min left"
    assert "Embedding: 1200 of 10000 (12 %), 3 min 20 s, about 25 min left" in lines
    assert lines[-1].endswith(" left")
    assert len(lines) == 49  # every second step, which are 16.7 s apart, but for the last


def test_none_in_a_short_run_and_none_at_the_end():
    clock, lines = Clock(), []
    progress = PlainProgress(lines.append, clock)
    for done in range(4):
        clock.now += 9
        progress.show("Embedding", done, 3)
    clock.now += 100
    progress.show("Embedding", 3, 3)
    assert lines == []


def test_nothing_done_and_several_tasks():
    clock, lines = Clock(), []
    progress = PlainProgress(lines.append, clock)
    progress.show("a", 0, 2)
    clock.now += 40
    progress.show("a", 0, 2)
    progress.show("b", 0, 4)
    clock.now += 40
    progress.show("b", 1, 4)
    assert lines == ["a: 0 of 2 (0 %), 40 s", "b: 1 of 4 (25 %), 40 s, about 2 min left"]


@pytest.mark.parametrize(
    ("seconds", "passed", "guessed"),
    [
        (0.2, "0 s", "1 s"),
        (59.9, "59 s", "60 s"),
        (89, "1 min 29 s", "89 s"),
        (91, "1 min 31 s", "2 min"),
        (3_600, "1 h 0 min", "60 min"),
        (90_061, "25 h 1 min", "26 h"),
    ],
)
def test_spans(seconds, passed, guessed):
    assert span(seconds) == passed
    assert about(seconds) == guessed
