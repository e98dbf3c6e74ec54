from collections import Counter
from pathlib import Path

import pytest

from fusion_engine.errors import DatasetError
from fusion_engine.probe.tasks import SPLITS as ALL_SPLITS
from fusion_engine.probe.tasks import Task, read_csv, read_folders

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


def test_spaces_after_the_commas(folder: Path) -> None:
    path = write(folder / "pets.csv", "file_name,label,split", CLIPS, LABELS, SPLITS)
    expected = read_csv(path)
    path.write_text(path.read_text().replace(",", ", "))
    assert read_csv(path) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("file_name", "file", "its header is file, label, split; expected file_name, label"),
        ("split", "fold,split", "expected file_name, label and split, fold or neither"),
        ("dogs/rex.wav", "dogs/rax.wav", "line 2: {folder}/dogs/rax.wav is missing"),
        ("dogs/rex.wav", "birds/rex.wav", "line 2: {folder}/birds/rex.wav is missing"),
        ("dogs/rex.wav", "", "line 2: file_name is missing"),
        ("mia.wav", "dogs/rex.wav", "line 7: dogs/rex.wav is in line 2 as well"),
        ("rex.wav,dog", "rex.wav, ", "line 2: label is empty"),
        ("bo.WAV,dog,valid", "bo.WAV,dog,held", "line 3: split is 'held', expected train, valid ("),
        ("bo.WAV,dog,valid", "bo.WAV,dog,dev", "line 6: split is 'valid' here and 'dev' before"),
        ("mia.wav,cat,test", "mia.wav,cat,eval", "line 7: split is 'eval' here and 'test' before"),
        ("bo.WAV,dog,valid", "bo.WAV,dog", "line 3: 2 values, expected 3"),
        ("bo.WAV,dog,valid", "bo.WAV", "line 3: 1 value, expected 3"),
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


@pytest.mark.parametrize(
    ("train", "valid", "test", "note"),
    [
        ("train", "val", "test", "took val for valid"),
        ("Training", "dev", "TEST", "took training for train and dev for valid"),
        ("train", "validation", "eval", "took validation for valid and eval for test"),
        ("Train", "Valid", "Test", None),
    ],
)
def test_other_words_for_the_splits(
    train: str, valid: str, test: str, note: str | None, folder: Path
) -> None:
    words = (train, valid, test) * 2
    task = read_csv(write(folder / "p.csv", "file_name,label,Split", CLIPS, LABELS, words))
    assert [example.split for example in task.examples] == list(SPLITS)
    assert task.notes == (() if note is None else (note,))


def many(folder: Path, count: int = 20) -> tuple[list[str], list[str]]:
    """Clips of two labels, one with twice as many, and their labels."""
    clips = [f"{label}/{n:02d}.wav" for label, k in (("a", 2), ("b", 1)) for n in range(k * count)]
    for clip in clips:
        (folder / clip).parent.mkdir(parents=True, exist_ok=True)
        (folder / clip).touch()
    return clips, [clip[0] for clip in clips]


def table(task: Task) -> Counter[tuple[str, str | None]]:
    return Counter((example.label, example.split) for example in task.examples)


def test_labels_alone_get_a_split_that_is_drawn_in_each_class(tmp_path: Path) -> None:
    clips, labels = many(tmp_path)
    path = write(tmp_path / "p.csv", "file_name,label", clips, labels)
    task = read_csv(path)
    assert table(task) == {
        ("a", "train"): 28, ("a", "valid"): 6, ("a", "test"): 6,
        ("b", "train"): 14, ("b", "valid"): 3, ("b", "test"): 3,
    }  # fmt: skip
    (note,) = task.notes
    assert note.startswith(
        "the split is drawn with seed 0, in each class alike: 42 / 9 / 9 clips in train / valid / "
        "test; clips of one recording or person may be on both sides"
    )

    def splits(found: Task, base: Path) -> dict[str, str | None]:
        return {e.path.relative_to(base).as_posix(): e.split for e in found.examples}

    assert splits(read_csv(path, seed=1), tmp_path) != splits(task, tmp_path)
    # Elsewhere, in another order and with absolute names of other clips beside: the same.
    moved = tmp_path / "moved"
    many(moved)
    backwards = write(moved / "q.csv", "label,file_name", labels[::-1], clips[::-1])
    assert splits(read_csv(backwards), moved) == splits(task, tmp_path)


def test_absolute_names_get_a_split_too(folder: Path) -> None:
    clips = [str(folder / clip) for clip in CLIPS]
    task = read_csv(write(folder / "p.csv", "file_name,label", clips, LABELS))
    assert {example.split for example in task.examples} == set(ALL_SPLITS)


def test_a_label_too_rare_for_every_split_is_named(folder: Path) -> None:
    labels = ("dog",) * 4 + ("cat",) * 2
    task = read_csv(write(folder / "p.csv", "file_name,label", CLIPS, labels))
    assert task.notes[1] == (
        "1 label with fewer than three clips, too few for every split, such as cat"
    )


def test_folders_are_classes(tmp_path: Path) -> None:
    root = tmp_path / "sounds"
    clips, _ = many(root)
    trees.audio(root / "b/speaker/deep.FLAC")
    (root / "b/notes.txt").touch()
    (root / "loop").symlink_to(root / "b")
    (root / "b/again").symlink_to(root / "b")
    trees.clutter(root)
    task = read_folders(root, seconds=2)
    assert (task.name, task.seconds) == ("sounds", 2)
    assert task.classes == ("a", "b", "loop")
    assert sum(table(task).values()) == len(clips) + 2 * 21 - 20
    assert {e.path for e in task.examples if e.label == "b"} == {
        *(root / clip for clip in clips if clip[0] == "b"), root / "b/speaker/deep.FLAC",
    }  # fmt: skip
    assert task.notes[0].startswith("the split is drawn with seed 0")
    assert task.notes[1].startswith("left out 3 files in no class's folder or not audio, such as")


def test_folders_have_the_split_of_a_csv_with_the_same_files(tmp_path: Path) -> None:
    clips, labels = many(tmp_path)
    task = read_csv(write(tmp_path / "p.csv", "file_name,label", clips, labels), seed=4)
    found = {(e.path, e.label, e.split) for e in read_folders(tmp_path, seed=4).examples}
    assert found == {(e.path, e.label, e.split) for e in task.examples}


def test_folders_of_splits(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("dev", 2), ("test", 1)):
        for label in ("dog", "cat"):
            for number in range(count):
                trees.audio(tmp_path / split / label / f"{number}.wav")
    task = read_folders(tmp_path)
    assert task.classes == ("cat", "dog")
    assert table(task) == {
        (label, split): count
        for label in ("dog", "cat")
        for split, count in (("train", 3), ("valid", 2), ("test", 1))
    }
    assert task.notes == ("took dev for valid",)
    trees.audio(tmp_path / "val/dog/1.wav")
    with pytest.raises(DatasetError, match="split is 'val' here and 'dev' before"):
        read_folders(tmp_path)


def test_folders_that_are_no_task(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none cannot be read \(No such file"):
        read_folders(tmp_path / "none")
    with pytest.raises(DatasetError, match="no example, expected labelled") as caught:
        read_folders(tmp_path)
    assert "expected folders like this:" in str(caught.value)
    trees.audio(tmp_path / "dog/1.wav")
    with pytest.raises(DatasetError, match="expected two or more"):
        read_folders(tmp_path)
    for split in ("train", "test"):
        trees.audio(tmp_path / "half" / split / "dog/1.wav")
        trees.audio(tmp_path / "half" / split / "cat/1.wav")
    with pytest.raises(DatasetError, match="no example in valid"):
        read_folders(tmp_path / "half")


def test_a_folder_in_place_of_a_csv(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is a folder; a folder for each class is `--folder`"):
        read_csv(tmp_path)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_length_that_is_none_is_answered_about_the_length(seconds: float, folder: Path) -> None:
    path = write(folder / "p.csv", "file_name,label,split", CLIPS, LABELS, SPLITS)
    for read in (read_csv, read_folders):
        with pytest.raises(ValueError, match=r"^seconds is .*, expected a length above 0$"):
            read(path, seconds=seconds)
