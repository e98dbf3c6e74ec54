"""Every data set in its distributor's layout: class by class, split by split."""

import os
from collections import Counter
from pathlib import Path

import pytest

from fusion_engine.audio import load
from fusion_engine.errors import DatasetError
from fusion_engine.probe.tasks import TASKS, Task, read_task

from . import trees

TREES = {
    "esc50": trees.esc50,
    "urbansound8k": trees.urbansound8k,
    "speech_commands": trees.speech_commands,
    "voxceleb1": trees.voxceleb1,
    "voxforge": trees.voxforge,
    "crema_d": trees.crema_d,
    "gtzan": trees.gtzan,
    "nsynth": trees.nsynth,
    "surge": trees.surge,
}


def table(task: Task) -> Counter[tuple[str, str | int | None]]:
    """How many clips of each class are in each split or fold."""
    return Counter((e.label, e.split or e.fold) for e in task.examples)


def names(task: Task, part: str | int, root: Path) -> set[str]:
    return {e.path.relative_to(root).as_posix() for e in task.examples if part in (e.split, e.fold)}


@pytest.mark.parametrize("name", TREES)
def test_every_path_is_a_file_and_the_rest_is_as_registered(name: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path / "data")
    task, info = read_task(name, root), TASKS[name]
    assert all(example.path.is_file() for example in task.examples)
    assert not any(example.path.name.startswith(".") for example in task.examples)
    assert (task.name, task.title, task.seconds) == (info.name, info.title, info.seconds)
    assert task == read_task(name, str(root))


def test_the_nine_clip_lengths() -> None:
    lengths = {name: TASKS[name].seconds for name in TREES}
    assert list(lengths.values()) == [5, 4, 1, 8.2, 5.8, 2.5, 30, 4, 4]


def test_esc50(tmp_path: Path) -> None:
    root = trees.esc50(tmp_path)
    trees.audio(root / "audio/9-extra-A-0.wav")
    task = read_task("esc50", root)
    assert task.classes == ("chirping_birds", "dog")
    assert table(task) == {(label, fold): 1 for label in task.classes for fold in range(1, 6)}
    assert names(task, 3, root) == {"audio/3-100030-A-0.wav", "audio/3-1000314-A-14.wav"}
    assert task.notes == (
        "left out 1 audio file that meta/esc50.csv does not name, such as audio/9-extra-A-0.wav",
        "10 clips, the distributor's release has 2000",
        "2 classes, the distributor's release has 50",
    )


def test_clips_of_any_rate_and_stereo_are_left_to_the_decoder(tmp_path: Path) -> None:
    task = read_task("esc50", trees.esc50(tmp_path))
    for example in task.examples:
        # 10 ms at the model's rate, whatever the file's.
        assert load(example.path, 16_000).samples.shape == (160,)


def test_urbansound8k(tmp_path: Path) -> None:
    task = read_task("urbansound8k", trees.urbansound8k(tmp_path))
    assert task.classes == ("air_conditioner", "dog_bark")
    assert table(task) == {(label, fold): 1 for label in task.classes for fold in range(1, 11)}
    assert names(task, 10, tmp_path) == {
        "audio/fold10/100010-0-0-10.wav",
        "audio/fold10/100010-3-0-10.wav",
    }


def test_speech_commands(tmp_path: Path) -> None:
    root = trees.speech_commands(tmp_path)
    (root / "bed" / "bb05582b_nohash_0.wav").rename(root / "bed" / "bb05582b_nohash_0.WAV")
    lines = (root / "testing_list.txt").read_text()
    (root / "testing_list.txt").write_text(lines.replace("bed/bb05582b_nohash_0.wav\n", ""))
    trees.audio(root / "my_own_word" / "a.wav")
    task = read_task("speech_commands", root)
    assert len(task.classes) == 35
    assert "_background_noise_" not in task.classes
    expected = {(word, split): 1 for word in trees.WORDS for split in ("train", "valid", "test")}
    # The upper-case one is audio, and no list names it.
    expected["bed", "train"] = 2
    del expected["bed", "test"]
    assert table(task) == expected
    assert "right/c50f55b8_nohash_0.wav" in names(task, "valid", root)
    assert "right/bb05582b_nohash_0.wav" in names(task, "test", root)
    assert task.notes[0] == "left out the folder my_own_word: none of the 35 words"


@pytest.mark.parametrize("where", [("wav", "wav"), ("dev/wav", "test/wav")])
def test_voxceleb1(where: tuple[str, str], tmp_path: Path) -> None:
    root = trees.voxceleb1(tmp_path, where)
    task = read_task("voxceleb1", root)
    assert task.classes == ("id10001", "id10270")
    assert table(task) == {
        (label, split): count
        for label in task.classes
        for split, count in (("train", 2), ("valid", 1), ("test", 1))
    }
    assert names(task, "test", root) == {
        f"{where[0]}/id10001/J9lHsKG98U8/00001.wav",
        f"{where[1]}/id10270/J9lHsKG98U8/00001.wav",
    }


def test_voxceleb1_leaves_out_what_the_list_does_not_name(tmp_path: Path) -> None:
    root = trees.voxceleb1(tmp_path, ("dev/wav", "test/wav"))
    trees.audio(root / "dev/wav/id10001/J9lHsKG98U8/00002.wav")
    task = read_task("voxceleb1", root)
    assert len(task.examples) == 8
    assert task.notes[0] == (
        "left out 1 audio file that iden_split.txt does not name, such as "
        "id10001/J9lHsKG98U8/00002.wav"
    )


def voxforge_splits(task: Task) -> dict[str, set[str | None]]:
    """The splits of each user, by what the folder's name begins with."""
    splits: dict[str, set[str | None]] = {}
    for example in task.examples:
        user = example.path.parts[-3].split("-20")[0].lower()
        splits.setdefault(user, set()).add(example.split)
    return splits


def test_voxforge(tmp_path: Path) -> None:
    root = trees.voxforge(tmp_path)
    trees.audio(root / "nl/Trunk/Audio/Main/16kHz_16bit/vim-20080101-a/wav/nl-01.wav")
    task = read_task("voxforge", root)
    assert task.classes == ("de", "en", "es", "fr", "it", "ru")
    assert len(task.examples) == 6 * 23 * 2
    assert all(example.path.parts[-8] == example.label for example in task.examples)
    assert "left out the folder nl: none of the languages de en es fr it ru" in task.notes
    splits = voxforge_splits(task)
    # No speaker is in two splits: not the one of two sessions, and not the anonymous ones.
    assert all(len(found) == 1 for found in splits.values())
    assert len(splits) == 6 * 20 + 1
    assert splits["anonymous"] == {"train"}
    # 15 % of 46 clips are 6.9: three speakers of two clips come nearest.
    assert table(task) == {
        (language, split): count
        for language in task.classes
        for split, count in (("train", 34), ("valid", 6), ("test", 6))
    }
    assert task.notes[0] == (
        "the speakers' split is drawn with seed 0, 74 / 13 / 13 % of the clips in train / valid / "
        "test: the data set comes with none; speakers with more than 5 % of a language's clips "
        "train where others can fill the smaller splits, and so do all 24 clips of anonymous users"
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("somebody-20070816_de1", "somebody-20070817-abc"),
        ("somebody-20070816_de1", "Somebody-20070816_de2"),
        ("somebody-20070816", "somebody-20080101-x-y"),
        ("somebody-2007081612-abc", "somebody-20080101a"),
        ("some-body-20070816-abc", "some-body-20070817_de1"),
        ("some_body-20070816-abc", "some_body_20070817-abc"),
        ("somebody_de1", "somebody-20070817-abc"),
        ("12345678-20070816-abc", "12345678-20070817-abc"),
    ],
)
def test_voxforge_knows_a_speaker_by_every_form_of_a_sessions_name(
    first: str, second: str, tmp_path: Path
) -> None:
    """As two speakers they would hardly be in the same split with each of 20 seeds."""
    root = trees.voxforge(tmp_path, speakers=6)
    folder = root / "de" / trees.VOXFORGE_MAIN
    trees.voxforge_session(folder, first, clips=1)
    trees.voxforge_session(folder, second, clips=1)
    for seed in range(20):
        found = {
            e.split
            for e in read_task("voxforge", root, seed=seed).examples
            if e.path.parts[-3] in (first, second)
        }
        assert len(found) == 1


def test_voxforge_speakers_of_other_names_are_others(tmp_path: Path) -> None:
    root = trees.voxforge(tmp_path, speakers=6)
    folder = root / "de" / trees.VOXFORGE_MAIN
    for user in ("jean-pierre", "jean-paul"):
        trees.voxforge_session(folder, f"{user}-20070816-abc", clips=1)
    found = [voxforge_splits(read_task("voxforge", root, seed=seed)) for seed in range(20)]
    assert any(one["jean-pierre"] != one["jean-paul"] for one in found)


def test_voxforge_as_on_the_server(tmp_path: Path) -> None:
    """English in SpeechCorpus, Russian in Russian, and sessions at several rates."""
    expected = read_task("voxforge", trees.voxforge(tmp_path / "ours"))
    root = trees.voxforge(tmp_path / "server")
    (root / "en").rename(root / "SpeechCorpus")
    (root / "ru").rename(root / "Russian")
    task = read_task("voxforge", root)
    places = {"SpeechCorpus": "en", "Russian": "ru"}

    def found(one: Task) -> set[tuple[str, ...]]:
        return {
            (places.get(e.path.parts[-8], e.path.parts[-8]), *e.path.parts[-3:], str(e.split))
            for e in one.examples
        }

    assert found(task) == found(expected)
    assert table(task) == table(expected)
    assert task.notes == expected.notes
    slow = root / "SpeechCorpus/Trunk/Audio/Main/8kHz_16bit"
    trees.voxforge_session(slow, "enuser3-20080101-abc")
    twice = read_task("voxforge", root)
    assert twice.examples == task.examples
    assert twice.notes[1] == (
        "left out 1 session that is there under the same name already, such as "
        "SpeechCorpus/Trunk/Audio/Main/8kHz_16bit/enuser3-20080101-abc"
    )


def test_voxforge_names_both_folders_of_a_language_that_is_missing(tmp_path: Path) -> None:
    root = trees.voxforge(tmp_path)
    (root / "en").rename(root / "English")
    with pytest.raises(DatasetError, match=r"/en is missing, and so is .*/SpeechCorpus\n"):
        read_task("voxforge", root)


@pytest.mark.parametrize("seed", range(10))
def test_voxforge_gives_no_split_to_one_prolific_speaker(seed: int, tmp_path: Path) -> None:
    root = trees.voxforge(tmp_path)
    trees.voxforge_session(root / "it" / trees.VOXFORGE_MAIN, "prolific-20110101-a", clips=300)
    trees.voxforge_session(root / "ru" / trees.VOXFORGE_MAIN, "anonymous-20110101-a", clips=300)
    task = read_task("voxforge", root, seed=seed)
    splits = voxforge_splits(task)
    assert splits["prolific"] == splits["anonymous"] == {"train"}
    for language in ("it", "ru"):
        for split in ("valid", "test"):
            users = {
                e.path.parts[-3].split("-20")[0]
                for e in task.examples
                if (e.label, e.split) == (language, split)
            }
            assert len(users) > 5


def test_voxforge_keeps_a_user_of_two_languages_in_one_split(tmp_path: Path) -> None:
    root = trees.voxforge(tmp_path)
    for language in ("de", "en", "fr", "it"):
        folder = root / language / "Trunk/Audio/Main/16kHz_16bit"
        for session in ("polyglot-20110101-a", "-20110102-b", "no date"):
            trees.audio(folder / session / "wav" / "a.wav")
    examples = read_task("voxforge", root).examples
    for name in ("polyglot", "no date"):
        found = [e.split for e in examples if name in str(e.path)]
        assert len(found) == 4
        assert len(set(found)) == 1
    # A session of nobody in particular may be anybody's.
    assert {e.split for e in examples if "-20110102-b" in str(e.path)} == {"train"}


def test_crema_d(tmp_path: Path) -> None:
    root = trees.crema_d(tmp_path)
    trees.audio(root / "AudioWAV/readme.wav")
    (root / "AudioWAV/1002_DFA_ANG_XX.wav").rename(root / "AudioWAV/1002_DFA_ANG_XX.WAV")
    task = read_task("crema_d", root)
    assert task.classes == ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    assert len(task.examples) == 91 * 6 + 1 + len(trees.CREMA_D_SOUND)
    found = {example.path.stem for example in task.examples}
    assert found.issuperset(trees.CREMA_D_SOUND)
    assert "1076_MTI_SAD_XX" not in found
    splits: dict[str, set[str | None]] = {}
    for example in task.examples:
        assert example.label == example.path.name.split("_")[2]
        splits.setdefault(example.path.name[:4], set()).add(example.split)
    assert all(len(found) == 1 for found in splits.values())
    assert Counter(split for found in splits.values() for split in found) == {
        "train": 64, "valid": 9, "test": 18,
    }  # fmt: skip
    assert task.notes[:3] == (
        "left out AudioWAV/1076_MTI_SAD_XX.wav: it has no sound, nor has its MP3",
        "the actors' split is drawn with seed 0: the data set comes with none",
        "left out 1 audio file that is not named like 1001_DFA_ANG_XX.wav, such as "
        "AudioWAV/readme.wav",
    )


def test_crema_d_has_one_clip_less_than_the_release() -> None:
    """7 442 files; the 7 438 of TensorFlow Datasets lack four others, which are sound."""
    assert TASKS["crema_d"].examples == 7_442 - 1


@pytest.mark.parametrize(
    ("tree", "suffix"), [("genres", "wav"), ("genres_original", "wav"), ("genres", "au")]
)
def test_gtzan_with_the_users_lists(tree: str, suffix: str, tmp_path: Path) -> None:
    root = trees.gtzan(tmp_path, tree=tree, suffix=suffix)
    trees.gtzan_lists(root)
    task = read_task("gtzan", root)
    assert task.classes == trees.GENRES
    assert table(task) == {
        (genre, split): count
        for genre in trees.GENRES
        for split, count in (("train", 9), ("valid", 4), ("test", 6))
    }
    assert f"{tree}/rock/rock.00012.{suffix}" in names(task, "valid", root)
    assert not any("NOT the fault-filtered" in note for note in task.notes)
    assert any("the lists have 90 / 40 / 60 clips" in note for note in task.notes)


def test_gtzan_without_lists_draws_in_the_same_proportions_and_says_so(tmp_path: Path) -> None:
    task = read_task("gtzan", trees.gtzan(tmp_path, 100))
    # 443, 197 and 290 of 930, of the hundred of each genre; jazz lacks none here.
    assert table(task) == {
        (genre, split): count
        for genre in trees.GENRES
        for split, count in (("train", 48), ("valid", 21), ("test", 31))
    }
    assert "NOT the fault-filtered" in task.notes[-1]


@pytest.mark.parametrize("fault", ["missing", "damaged"])
@pytest.mark.parametrize("lists", [True, False])
def test_gtzan_leaves_out_the_broken_file(fault: str, lists: bool, tmp_path: Path) -> None:
    root = trees.gtzan(tmp_path, 60)
    broken = root / "genres/jazz/jazz.00054.wav"
    if lists:
        trees.gtzan_lists(root)
        with (root / "train_filtered.txt").open("a") as file:
            file.write("jazz/jazz.00054.wav\n")
    if fault == "missing":
        broken.unlink()
    else:
        broken.write_bytes(b"\0" * 100)
    task = read_task("gtzan", root)
    assert broken not in {example.path for example in task.examples}
    assert len(task.examples) == (190 if lists else 599)
    assert task.notes[0] == "left out jazz.00054: missing, or broken as in a common release"


def test_nsynth(tmp_path: Path) -> None:
    root = trees.nsynth(tmp_path)
    trees.audio(root / "nsynth-test/audio/bass_acoustic_999-024-025.wav")
    task = read_task("nsynth", root)
    assert task.classes == trees.FAMILIES
    assert table(task) == {
        (family, split): 1
        for family in trees.FAMILIES
        for split in ("train", "valid", "test")
        if family != "synth_lead" or split == "train"
    }
    assert "nsynth-valid/audio/reed_acoustic_007-024-025.wav" in names(task, "valid", root)
    assert "bass_acoustic_999-024-025.wav" in task.notes[0]


@pytest.mark.parametrize("suffix", ["ogg", "WAV"])
def test_surge(suffix: str, tmp_path: Path) -> None:
    root = trees.surge(tmp_path, suffix=suffix)
    tone = root / "patches_factory/Basses/Tone 0"
    (tone / f"20.{suffix}").touch()
    (tone / f"preview.{suffix}").touch()
    task = read_task("surge", root)
    assert task.classes == tuple(f"{note:03d}" for note in range(21, 109))
    splits: dict[Path, set[str | None]] = {}
    for example in task.examples:
        assert int(example.path.stem) == int(example.label)
        splits.setdefault(example.path.parent, set()).add(example.split)
    # All notes of a tone are together: 10 tones, 8 / 1 / 1.
    assert Counter(split for found in splits.values() for split in found) == {
        "train": 8, "valid": 1, "test": 1,
    }  # fmt: skip
    assert table(task) == {
        (note, split): count
        for note in task.classes
        for split, count in (("train", 8), ("valid", 1), ("test", 1))
    }
    assert "left out 2 audio files" in task.notes[1]


@pytest.mark.parametrize("name", ["voxforge", "crema_d", "gtzan", "surge"])
def test_drawn_splits_follow_the_seed_alone(name: str, tmp_path: Path) -> None:
    here = TREES[name](tmp_path / "here")
    there = TREES[name](tmp_path / "there")

    def splits(root: Path, seed: int) -> dict[str, str | None]:
        task = read_task(name, root, seed=seed)
        return {e.path.relative_to(root).as_posix(): e.split for e in task.examples}

    assert splits(here, 0) == splits(there, 0)
    assert splits(here, 0) != splits(here, 1)


def test_reading_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile

    roots = {name: make(tmp_path / name) for name, make in TREES.items()}

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(soundfile, "SoundFile", refuse)
    for name, root in roots.items():
        read_task(name, root)


def test_files_cost_no_system_call_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    real_scandir, real_stat = os.scandir, os.stat
    monkeypatch.setattr(os, "scandir", lambda p: calls.update(["scandir"]) or real_scandir(p))
    monkeypatch.setattr(os, "stat", lambda *a, **k: calls.update(["stat"]) or real_stat(*a, **k))
    counts = []
    for index, tones in enumerate((3, 6)):
        calls.clear()
        read_task("surge", trees.surge(tmp_path / str(index), tones))
        counts.append(dict(calls))
    # Three more tones are 264 more files, and three more folders to list.
    assert counts[1]["scandir"] - counts[0]["scandir"] == 3
    assert counts[1].get("stat", 0) == counts[0].get("stat", 0)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DatasetError, match=r"no task 'esc-50', expected esc50, urbansound8k"):
        read_task("esc-50", ".")


def test_without_a_folder_it_says_what_to_get() -> None:
    with pytest.raises(DatasetError, match=r"(?s)no folder was named.*├── audio/.*github\.com/kar"):
        read_task("esc50")
