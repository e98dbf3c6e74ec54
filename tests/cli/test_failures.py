from pathlib import Path

from fusion_engine import AudioError, NumericalError
from fusion_engine.cli._failures import FailureReport


def test_few_are_said_and_all_are_counted(capsys):
    report = FailureReport("out.csv.errors.jsonl")
    for number in range(1_000):
        kind = "damaged" if number < 900 else "empty"
        report.add(Path(f"{number}.wav"), AudioError(f"{number}.wav: broken", kind=kind))
    report.add(Path("last.wav"), NumericalError("last.wav: layer_1 is not finite"))
    assert capsys.readouterr().err.splitlines() == [
        *(f"failed: {number}.wav: broken" for number in range(5)),
        "more files failed; their reasons will be in out.csv.errors.jsonl",
        "failed: 900.wav: broken",
        "failed: last.wav: layer_1 is not finite",
    ]
    assert report.count == 1_001
    assert list(report.kinds()) == [
        "  damaged: 900 files (first: 0.wav)",
        "  empty: 100 files (first: 900.wav)",
        "  no finite embedding: 1 file (first: last.wav)",
    ]
