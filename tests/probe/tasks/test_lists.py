"""The user's lists, in the ways in which lists name clips."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fusion_engine.errors import DatasetError
from fusion_engine.probe.tasks import TASKS, Task, read_task

from . import trees
from .test_readers import TREES

TAKERS = ["voxforge", "crema_d", "gtzan", "surge"]
CYCLE = ("train", "valid", "test")


def whole(name: str, root: Path) -> dict[str, str]:
    """A split for every clip that the reader finds, which no draw would give."""
    paths = sorted(e.path.relative_to(root).as_posix() for e in read_task(name, root).examples)
    return {path: CYCLE[index % 3] for index, path in enumerate(paths)}


def write(path: Path, splits: dict[str, str], rename: Callable[[str], str] = str) -> Path:
    rows = [(rename(name), "x", split) for name, split in splits.items()]
    trees.table(path, "file_name,label,split", rows)
    return path


def found(task: Task, root: Path) -> dict[str, str | None]:
    return {e.path.relative_to(root).as_posix(): e.split for e in task.examples}


def test_which_tasks_take_lists() -> None:
    """Those whose distributors publish no split."""
    assert [name for name, info in TASKS.items() if info.lists] == TAKERS


@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize(
    "rename",
    [
        str,
        lambda path: f"./{path}",
        lambda path: f"work/16k/{path}",
        lambda path: path.replace("/", "\\"),
        lambda path: path.rpartition(".")[0],
        lambda path: path.rpartition(".")[0] + ".mp3",
    ],
    ids=["as it is", "from here", "from above", "backslashes", "no suffix", "another suffix"],
)
def test_a_list_in_place_of_the_draw(
    name: str, rename: Callable[[str], str], tmp_path: Path
) -> None:
    root = TREES[name](tmp_path / "data")
    splits = whole(name, root)
    task = read_task(name, root, split_list=write(tmp_path / "list.csv", splits, rename))
    assert found(task, root) == splits
    counts = " / ".join(str(list(splits.values()).count(split)) for split in CYCLE)
    note = f"the split is that of {tmp_path / 'list.csv'}: {counts} clips in train / valid / test"
    assert note in task.notes
    assert not any("drawn" in note for note in task.notes)


def test_names_without_their_folders(tmp_path: Path) -> None:
    root = trees.crema_d(tmp_path / "data")
    splits = whole("crema_d", root)
    path = write(tmp_path / "list.csv", splits, lambda name: name.rpartition("/")[2])
    assert found(read_task("crema_d", root, split_list=path), root) == splits


def test_a_name_that_is_many_is_refused(tmp_path: Path) -> None:
    root = trees.surge(tmp_path / "data")
    path = write(tmp_path / "list.csv", {"21.ogg": "train"})
    with pytest.raises(DatasetError, match=r"list\.csv: line 2: 21\.ogg may be .*21\.ogg or .*21"):
        read_task("surge", root, split_list=path)


def test_what_a_list_does_not_name_is_left_out(tmp_path: Path) -> None:
    root = trees.crema_d(tmp_path / "data")
    splits = whole("crema_d", root)
    names = list(splits)
    kept = {name: splits[name] for name in names[3:]}
    path = write(tmp_path / "list.csv", kept)
    task = read_task("crema_d", root, split_list=path)
    assert found(task, root) == kept
    assert f"left out 3 clips that {path} does not name, such as {names[0]}" in task.notes


def test_a_listed_clip_that_is_left_out_anyway(tmp_path: Path) -> None:
    """The silent one, which others' lists name."""
    root = trees.crema_d(tmp_path / "data")
    splits = whole("crema_d", root)
    silent = "AudioWAV/1076_MTI_SAD_XX.wav"
    path = write(tmp_path / "list.csv", {**splits, silent: "test"})
    assert found(read_task("crema_d", root, split_list=path), root) == splits
    (tmp_path / "none.txt").write_text("# nothing\n\n")
    task = read_task("crema_d", root, split_list=path, exclude_list=tmp_path / "none.txt")
    assert found(task, root) == {**splits, silent: "test"}


def test_gtzan_may_lack_its_broken_clip(tmp_path: Path) -> None:
    root = trees.gtzan(tmp_path / "data", 60)
    (root / "genres/jazz/jazz.00054.wav").unlink()
    splits = whole("gtzan", root)
    path = write(tmp_path / "list.csv", {**splits, "jazz.00054": "test"})
    # The three lists are not looked at.
    (root / "train_filtered.txt").write_text("nobody.00000.wav\n")
    assert found(read_task("gtzan", root, split_list=path), root) == splits


def test_an_exclude_list(tmp_path: Path) -> None:
    root = trees.crema_d(tmp_path / "data")
    path = tmp_path / "gone.txt"
    path.write_text("1001_DFA_ANG_XX\nAudioWAV/1002_DFA_DIS_XX.wav\n\nAudioMP3/9999.mp3\n")
    before = found(read_task("crema_d", root), root)
    task = read_task("crema_d", root, exclude_list=path)
    gone = {"AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1002_DFA_DIS_XX.wav"}
    # The list replaces the one that is built in, and the actors' split stays.
    assert found(task, root) == {
        **{name: split for name, split in before.items() if name not in gone},
        "AudioWAV/1076_MTI_SAD_XX.wav": before["AudioWAV/1076_DFA_SAD_XX.wav"],
    }
    assert task.notes[:2] == (
        f"left out 2 clips that {path} names",
        f"1 clip that {path} names is not in the data, such as AudioMP3/9999.mp3",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file,split\n", "its header is file, split; expected file_name and split"),
        ("", "its header is empty; expected file_name and split"),
        ("file_name,split\na.wav\n", "line 2: 1 value, expected 2"),
        ("file_name,split\n{0},tost\n", "line 2: split is 'tost', expected train, valid (val"),
        ("file_name,split\n{0},val\n{1},dev\n", "line 3: split is 'dev' here and 'val' before"),
        ("file_name,split\n{0},val\n{0},test\n", "line 3: {0} is in valid already"),
        (
            "file_name,split\nAudioWAV/1.wav,train\n2.wav,test\n",
            "line 2: AudioWAV/1.wav is not in the data, and 1 more that it names; get them, or",
        ),
    ],
)
def test_split_lists_that_are_none(text: str, expected: str, tmp_path: Path) -> None:
    root = trees.crema_d(tmp_path / "data")
    names = list(whole("crema_d", root))
    path = tmp_path / "list.csv"
    path.write_text(text.format(*names))
    with pytest.raises(DatasetError) as caught:
        read_task("crema_d", root, split_list=path)
    assert str(caught.value).startswith(f"{path}: {expected.format(*names)}")


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    root = trees.crema_d(tmp_path / "data")
    with pytest.raises(DatasetError, match=r"none\.csv: cannot be read \(No such file"):
        read_task("crema_d", root, split_list=tmp_path / "none.csv")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    with pytest.raises(DatasetError, match=r"binary: cannot be read .*expected UTF-8"):
        read_task("crema_d", root, exclude_list=tmp_path / "binary")


def test_lists_that_leave_nothing(tmp_path: Path) -> None:
    root = trees.crema_d(tmp_path / "data")
    path = tmp_path / "all.txt"
    path.write_text("\n".join([*whole("crema_d", root), "1076_MTI_SAD_XX"]))
    with pytest.raises(DatasetError, match="the lists leave no clip"):
        read_task("crema_d", root, exclude_list=path)


@pytest.mark.parametrize("name", sorted(set(TREES) - set(TAKERS)))
def test_a_task_with_a_published_split_takes_no_list(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"a.csv: {name} has its published split and takes no"):
        read_task(name, tmp_path, split_list="a.csv")
