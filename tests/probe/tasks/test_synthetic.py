from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fusion_engine.audio import load
from fusion_engine.errors import DatasetError, FusionEngineError
from fusion_engine.probe.tasks import TASKS, read_csv, read_task, task_names
from fusion_engine.probe.tasks.synthesis import SAMPLES, SOUNDS, clip

NAMES = task_names("synthetic")
RHYTHM = "synthetic_rhythm"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    for name in NAMES:
        read_task(name, folder)
    return folder


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_it_is_four_tasks() -> None:
    assert [name.removeprefix("synthetic_") for name in NAMES] == [
        "pitch", "timbre", "rhythm", "events",
    ]  # fmt: skip
    with pytest.raises(DatasetError, match="synthetic is 4 tasks, expected one of synthetic_pitch"):
        read_task("synthetic")


@pytest.mark.parametrize("name", NAMES)
def test_classes_and_splits_are_balanced(name: str, root: Path) -> None:
    task = read_task(name, root)
    assert set(task.classes) == set(SOUNDS[name.removeprefix("synthetic_")])
    assert task.seconds == 1
    assert task.notes == ()
    assert Counter((e.label, e.split) for e in task.examples) == {
        (label, split): count
        for label in task.classes
        for split, count in (("train", 16), ("valid", 4), ("test", 10))
    }
    assert len(task.examples) == TASKS[name].examples


@pytest.mark.parametrize("task", SOUNDS)
def test_every_clip_is_another_at_a_level_of_its_own(task: str, root: Path) -> None:
    clips = [load(e.path, 16_000).samples for e in read_task(f"synthetic_{task}", root).examples]
    assert {c.shape for c in clips} == {(SAMPLES,)}
    assert len({c.tobytes() for c in clips}) == len(clips)
    peaks = np.array([20 * np.log10(np.abs(c).max()) for c in clips])
    # Drawn from -20 to -3 dB; PCM16 rounds by 3e-5 of full scale.
    assert np.all((peaks > -20.01) & (peaks < -2.99))
    assert peaks.std() > 3


def test_the_pitch_is_what_the_label_says() -> None:
    """The fundamental with the strongest harmonics, named by librosa."""
    import librosa

    candidates = np.arange(214.0, 424.0, 0.5)
    bins = np.round(candidates[:, None] * np.arange(1, 9)).astype(int)
    for note in SOUNDS["pitch"]:
        found = []
        for seed in range(9):
            wave = clip("pitch", note, np.random.default_rng(seed)).astype(float)
            # A second of sound: the bins are 1 Hz apart. The root keeps one harmonic, or the band
            # of noise, from deciding alone.
            spectrum = np.sqrt(np.abs(np.fft.rfft(wave * np.hanning(SAMPLES))))
            found.append(candidates[spectrum[bins].sum(1).argmax()])
        names = librosa.hz_to_note(np.array(found), unicode=False)
        assert sum(name == note for name in names) >= 7, (note, names)


def test_the_rhythm_is_what_the_label_says() -> None:
    """The strongest modulation of the power is at the rate, or where noise hides it a multiple."""
    for label in SOUNDS["rhythm"]:
        rate = float(label.split()[0])
        found = []
        for seed in range(9):
            wave = clip("rhythm", label, np.random.default_rng(seed)).astype(float)
            power = (wave**2).reshape(-1, 80).mean(1)
            spectrum = np.abs(np.fft.rfft(power - power.mean(), 4_000))
            found.append(np.fft.rfftfreq(4_000, 80 / 16_000)[spectrum.argmax()])
        # Up to 5 % off, and a second of sound resolves 1 Hz.
        assert abs(np.median(found) - rate) < 0.05 * rate + 0.5


def test_the_same_seed_writes_the_same_bytes(root: Path, tmp_path: Path) -> None:
    read_task(RHYTHM, tmp_path)
    written = contents(tmp_path)
    assert len(written) == 151
    assert written == {k: v for k, v in contents(root).items() if k.startswith("rhythm-")}
    other = read_task(RHYTHM, tmp_path, seed=1)
    assert {e.path.read_bytes() for e in other.examples}.isdisjoint(written.values())


def test_what_is_whole_is_used_again(tmp_path: Path) -> None:
    first = read_task(RHYTHM, tmp_path)
    times = {e.path: e.path.stat().st_mtime_ns for e in first.examples}
    again = read_task(RHYTHM, tmp_path)
    assert again == first
    assert {e.path: e.path.stat().st_mtime_ns for e in again.examples} == times


@pytest.mark.parametrize("fault", ["cut", "gone", "flipped", "no table", "other table"])
def test_what_is_damaged_is_written_anew(fault: str, tmp_path: Path) -> None:
    task = read_task(RHYTHM, tmp_path)
    before = contents(tmp_path)
    path = task.examples[7].path
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif fault == "gone":
        path.unlink()
    elif fault == "flipped":
        data = bytearray(path.read_bytes())
        data[2_000] ^= 1
        path.write_bytes(data)
    elif fault == "no table":
        (path.parent / "task.csv").unlink()
    else:
        table = path.parent / "task.csv"
        table.write_text(table.read_text().replace(",train,", ",test,", 1))
    assert read_task(RHYTHM, tmp_path) == task
    assert contents(tmp_path) == before


def test_its_table_is_a_task_of_your_own(tmp_path: Path) -> None:
    task = read_task(RHYTHM, tmp_path)
    own = read_csv(task.examples[0].path.parent / "task.csv", seconds=1.0)
    assert set(own.examples) == set(task.examples)


def test_the_users_cache_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_ENGINE_CACHE", str(tmp_path))
    assert read_task(RHYTHM).examples[0].path.is_relative_to(tmp_path / "synthetic")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FusionEngineError, match="cannot write"):
        read_task(RHYTHM, tmp_path / "file")
