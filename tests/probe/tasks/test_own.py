from pathlib import Path

import pytest

from fusion_engine.errors import DatasetError
from fusion_engine.probe.tasks import read_csv

from . import trees

CLIPS = ("dogs/rex.wav", "dogs/bo.WAV", "dogs/ace.wav", "cats/tom.wav", "cats/kit.flac", "mia.wav")
LABELS = ("dog", "dog", "dog", "cat", "cat", "cat")
SPLITS = ("train", "valid", "test") * 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for clip in CLIPS:
        trees.audio(tmp_path / clip)
    trees.clutter(tmp_path)
    return tmp_path


def write(path: Path, header: str, *columns: object) -> Path:
    trees.table(path, header, zip(*columns, strict=True))  # type: ignore[call-overload]
    return path


def test_splits(folder: Path) -> None:
    path = write(folder / "pets.csv", "file_name,label,split", CLIPS, LABELS, SPLITS)
    task = read_csv(path, seconds=2.5)
    assert (task.name, task.seconds, task.classes) == ("pets", 2.5, ("cat", "dog"))
    assert [(e.path, e.label, e.split, e.fold) for e in task.examples] == [
        (folder / clip, label, split, None)
        for clip, label, split in zip(CLIPS, LABELS, SPLITS, strict=True)
    ]


def test_folds_other_columns_and_another_folder(folder: Path) -> None:
    table = write(
        folder / "elsewhere/pets.csv", "fold,age,file_name,label", (0, 1, 2) * 2, range(6), CLIPS,
        LABELS,
    )  # fmt: skip
    task = read_csv(table, audio=folder)
    assert task.folds == (0, 1, 2)
    assert task.seconds is None
    assert [e.path for e in task.examples] == [folder / clip for clip in CLIPS]


def test_a_spreadsheets_mark_and_blank_lines(folder: Path) -> None:
    path = write(folder / "pets.csv", "file_name,label,split", CLIPS, LABELS, SPLITS)
    path.write_text("\ufeff" + path.read_text() + "\n\n", encoding="utf-8")
    assert len(read_csv(path).examples) == 6


def test_spaces_behind_the_commas(folder: Path) -> None:
    path = write(folder / "pets.csv", "file_name,label,split", CLIPS, LABELS, SPLITS)
    expected = read_csv(path)
    path.write_text(path.read_text().replace(",", ", "))
    assert read_csv(path) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("file_name", "file", "its header is file, label, split; expected file_name, label and"),
        ("split", "fold,split", "expected file_name, label and either split or fold"),
        ("label,split", "label,part", "either split or fold"),
        ("dogs/rex.wav", "dogs/rax.wav", "line 2: {folder}/dogs/rax.wav is missing"),
        ("dogs/rex.wav", "birds/rex.wav", "line 2: {folder}/birds/rex.wav is missing"),
        ("dogs/rex.wav", "", "line 2: file_name is missing"),
        ("mia.wav", "dogs/rex.wav", "line 7: dogs/rex.wav is in line 2 as well"),
        ("rex.wav,dog", "rex.wav, ", "line 2: label is empty"),
        ("bo.WAV,dog,valid", "bo.WAV,dog,dev", "line 3: split is 'dev', expected train, valid or"),
        ("bo.WAV,dog,valid", "bo.WAV,dog", "line 3: 2 values, expected 3"),
        ("valid", "test", "no example in valid"),
        ("cat,", "dog,", "the classes are 'dog', expected two or more"),
    ],
)
def test_faults(old: str, new: str, expected: str, folder: Path) -> None:
    path = write(folder / "pets.csv", "file_name,label,split", CLIPS, LABELS, SPLITS)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DatasetError) as caught:
        read_csv(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert expected.format(folder=folder) in message.splitlines()[0]
    assert "expected a CSV like this:" in message


@pytest.mark.parametrize("fold", ["", "one", "-1", "1.0", "²"])
def test_a_fold_that_is_no_number(fold: str, folder: Path) -> None:
    path = write(folder / "p.csv", "file_name,label,fold", CLIPS, LABELS, (1, 2, fold, 1, 2, 1))
    with pytest.raises(DatasetError, match=rf"line 4: fold is '{fold}', expected a whole number"):
        read_csv(path)


def test_no_csv(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.csv: cannot be read"):
        read_csv(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\0")
    with pytest.raises(DatasetError, match=r"binary\.csv: cannot be read"):
        read_csv(tmp_path / "binary.csv")
    with pytest.raises(DatasetError, match="nowhere is no folder"):
        read_csv(tmp_path / "binary.csv", audio=tmp_path / "nowhere")
