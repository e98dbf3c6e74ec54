from collections import Counter

import pytest

from fusion_engine.audio.estimate import Survey
from fusion_engine.cli._dry_run import print_survey

ALL = Survey(files=12, sampled=12, size=34_567_890, seconds=90.0, rows=12, output_size=295_500)
SAMPLED = Survey(
    files=1_234_567,
    sampled=2_000,
    size=98_765_432_100_000,
    seconds=3.6e7,
    rows=14_400_000,
    output_size=354_000_000_000,
    unreadable=Counter({"text, not audio": 2, "No such file or directory": 7, "empty": 2}),
    guessed=1,
)


@pytest.fixture(autouse=True)
def _columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")


def test_all_files(capsys):
    print_survey(ALL)
    assert capsys.readouterr().out == (
        "files   12, 34.6 MB\n"
        "audio   1.5 min\n"
        "rows    12\n"
        "output  about 295.5 kB\n"
    )  # fmt: skip


def test_a_sample_with_a_speed(capsys):
    print_survey(SAMPLED, speed=2_512.4)
    text = capsys.readouterr().out
    assert text == (
        "files       1234567, about 98.8 TB\n"
        "sample      2000 of them, the others are taken to be like\n"
        "            these\n"
        "unreadable  7 of the sample: No such file or directory\n"
        "            2 of the sample: empty\n"
        "            2 of the sample: text, not audio\n"
        "guessed     1 file of the sample without a stated length: by\n"
        "            the bytes, at the header's bit rate or 128\n"
        "            kbit/s\n"
        "audio       about 10000.0 h\n"
        "rows        about 14400000\n"
        "output      about 354.0 GB\n"
        "time        about 4 h (2512 × real time)\n"
    )
    assert max(map(len, text.splitlines())) <= 60
