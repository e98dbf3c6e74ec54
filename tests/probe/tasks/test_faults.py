"""Data sets that are missing, half unpacked or contradict themselves."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion_engine.errors import DatasetError, FusionEngineError
from fusion_engine.probe.tasks import TASKS, read_task

from . import trees
from .test_readers import TREES


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def fail(name: str, root: Path) -> str:
    """The first line of the error, after checking the rest of it."""
    with pytest.raises(DatasetError) as caught:
        read_task(name, root)
    info, message = TASKS[name], str(caught.value)
    assert message.startswith(f"{info.title}: ")
    assert f"expected in {root}:\n\n{info.layout}\n\n" in message
    assert f"get it from {info.homepage}" in message
    return message.splitlines()[0].removeprefix(f"{info.title}: ")


@pytest.mark.parametrize("name", TREES)
def test_missing(name: str, tmp_path: Path) -> None:
    assert fail(name, tmp_path / "none") == f"{tmp_path / 'none'} is missing"
    (tmp_path / "file").touch()
    assert fail(name, tmp_path / "file") == f"{tmp_path / 'file'} is a file"
    (tmp_path / "empty").mkdir()
    fail(name, tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("esc50", "audio"),
        ("esc50", "meta"),
        ("esc50", "meta/esc50.csv"),
        ("esc50", "audio/3-100030-A-0.wav"),
        ("urbansound8k", "audio/fold7"),
        ("urbansound8k", "metadata/UrbanSound8K.csv"),
        ("urbansound8k", "audio/fold10/100010-3-0-10.wav"),
        ("speech_commands", "visual"),
        ("speech_commands", "testing_list.txt"),
        ("speech_commands", "bed/bb05582b_nohash_0.wav"),
        ("voxceleb1", "iden_split.txt"),
        ("voxceleb1", "wav"),
        ("voxforge", "ru"),
        ("crema_d", "AudioWAV"),
        ("gtzan", "genres/metal"),
        ("nsynth", "nsynth-valid"),
        ("nsynth", "nsynth-test/examples.json"),
        ("nsynth", "nsynth-train/audio/bass_acoustic_000-024-025.wav"),
    ],
)
def test_half_unpacked(name: str, gone: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path)
    path = root / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    found = fail(name, root)
    assert found.startswith(f"{path}") or f"{path}," in found
    assert "missing" in found


def test_how_many_more_are_missing(tmp_path: Path) -> None:
    root = trees.esc50(tmp_path)
    for path in (root / "audio").glob("[45]-*.wav"):
        path.unlink()
    assert fail("esc50", root) == (
        f"{root / 'audio/4-100030-A-0.wav'}, named in meta/esc50.csv, is missing, and 3 more that "
        "it names"
    )


def test_a_folder_too_high_is_pointed_out(tmp_path: Path) -> None:
    root = trees.esc50(tmp_path / "ESC-50-master")
    assert (
        fail("esc50", tmp_path)
        == f"{tmp_path / 'meta'} is missing; {root} has one: name that folder"
    )


def test_a_part_of_voxceleb(tmp_path: Path) -> None:
    root = trees.voxceleb1(tmp_path, ("dev/wav", "test/wav"))
    shutil.rmtree(root / "test")
    assert fail("voxceleb1", root) == (
        "id10270/1zcIwhmdeo4/00001.wav, named in iden_split.txt, is in none of dev/wav, and 3 more "
        "of the 8 clips that it names"
    )


Break = Callable[[Path], object]


@pytest.mark.parametrize(
    ("name", "spoil", "expected"),
    [
        (
            "esc50",
            lambda root: edit(root / "meta/esc50.csv", "category", "class"),
            "esc50.csv has no column 'category': its header is filename, fold, target, class",
        ),
        (
            "esc50",
            lambda root: edit(root / "meta/esc50.csv", "A-0.wav,2,", "A-0.wav,6,"),
            "the fold in line 4 of meta/esc50.csv is '6', not a number from 1 to 5",
        ),
        (
            "esc50",
            lambda root: edit(root / "meta/esc50.csv", "0,dog,True,1", "0,,True,1"),
            "line 2 of meta/esc50.csv has no class",
        ),
        (
            "esc50",
            lambda root: (root / "meta/esc50.csv").write_bytes(b"\xff\xfe\0f\0i"),
            "esc50.csv cannot be read",
        ),
        (
            "urbansound8k",
            lambda root: edit(root / "metadata/UrbanSound8K.csv", ",1,0,air", ",one,0,air"),
            "the fold in line 2 of metadata/UrbanSound8K.csv is 'one'",
        ),
        (
            "speech_commands",
            lambda root: edit(root / "testing_list.txt", "bed/bb05582b", "bed/c50f55b8"),
            "bed/c50f55b8_nohash_0.wav is named in validation_list.txt and in testing_list.txt",
        ),
        (
            "voxceleb1",
            lambda root: edit(root / "iden_split.txt", "3 id10270/", "4 id10270/"),
            "line 8 of iden_split.txt is '4 id10270/J9lHsKG98U8/00001.wav', not like '1 id10006/",
        ),
        (
            "voxforge",
            lambda root: (root / "de/Trunk/Audio/Main/16kHz_16bit/x-20080101-a.tgz").touch(),
            "x-20080101-a.tgz is not unpacked",
        ),
        (
            "voxforge",
            lambda root: shutil.rmtree(root / "it/Trunk"),
            "it has clips of 0 named speakers, too few",
        ),
        (
            "crema_d",
            lambda root: (root / "AudioWAV/1050_DFA_ANG_XX.wav").write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 72838\n"
            ),
            "AudioWAV/1050_DFA_ANG_XX.wav is a Git LFS pointer and no audio: run `git lfs pull`",
        ),
        (
            "gtzan",
            lambda root: (root / "test_filtered.txt").unlink(),
            "test_filtered.txt is missing",
        ),
        (
            "gtzan",
            lambda root: edit(root / "test_filtered.txt", "rock.00018", "rock.00099"),
            "rock.00099, named in test_filtered.txt, is missing",
        ),
        (
            "gtzan",
            lambda root: edit(root / "test_filtered.txt", "rock.00018", "rock.00000"),
            "rock.00000 is named in train_filtered.txt and in test_filtered.txt",
        ),
        (
            "gtzan",
            lambda root: (root / "genres/rock/rock.00003.au").write_bytes(b".snd"),
            "rock has rock.00003.au and rock.00003.wav: keep one",
        ),
        (
            "nsynth",
            lambda root: edit(
                root / "nsynth-test/examples.json", "instrument_family_str", "family"
            ),
            "nsynth-test/examples.json has a note with no instrument_family_str",
        ),
        (
            "nsynth",
            lambda root: (root / "nsynth-test/examples.json").write_text('{"bass'),
            "nsynth-test/examples.json cannot be read",
        ),
        (
            "surge",
            lambda root: shutil.rmtree(root / "patches_factory"),
            "has 0 folders with notes, too few for a split",
        ),
    ],
)
def test_contradictions(name: str, spoil: Break, expected: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path)
    if name == "gtzan":
        trees.gtzan_lists(root)
    spoil(root)
    assert re.search(re.escape(expected), fail(name, root))


def test_it_is_a_fusion_engine_error() -> None:
    import fusion_engine

    assert issubclass(fusion_engine.DatasetError, FusionEngineError)
