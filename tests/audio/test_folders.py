import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fusion_engine.audio import AUDIO_SUFFIXES, find_audio, load
from fusion_engine.audio.folders import FFMPEG_SUFFIXES, audio_suffixes, count_suffixes


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_ffmpeg(monkeypatch):
    monkeypatch.setenv("PATH", "")


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    program = tmp_path / ".bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


def touch(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def paths(*inputs):
    found = find_audio(inputs)
    assert not found.failures
    return list(map(str, found.paths))


def test_files_in_order_and_folders_sorted():
    touch("in/b.wav", "in/a/z.FLAC", "in/a/b/c.mp3", "in/a.ogg", "in/a/notes.txt")
    touch("in/.hidden.wav", "in/.git/x.wav")
    inside = ["in/a/b/c.mp3", "in/a/z.FLAC", "in/a.ogg", "in/b.wav"]
    assert paths("in") == inside
    given = ["missing.wav", "in/a/notes.txt", "in/.hidden.wav"]
    assert paths(*given, "in") == [*given, *inside]
    assert find_audio([]).paths == []


def test_what_is_left_out_is_counted(no_ffmpeg):
    touch("in/a.wav", "in/b.txt", "in/c/d.TXT", "in/e.jpg", "in/README", "in/f.m4a", "in/.g.txt")
    found = find_audio(["in", "in/b.txt"])
    assert found.left_out == Counter({".txt": 2, ".jpg": 1, "": 1, ".m4a": 1})
    assert found.folders == [Path("in")]
    assert count_suffixes(found.left_out) == "2 .txt, 1 without a suffix, 1 .jpg, 1 .m4a"
    many = Counter({f".{letter}": number for number, letter in enumerate("abcdefghij", 1)})
    assert count_suffixes(many) == "10 .j, 9 .i, 8 .h, 7 .g, 6 .f, 5 .e, 4 .d, 3 .c, 3 others"


NAMED = ["m4a", "aac", "webm", "w64", "caf", "au", "sph", "rf64", "mp2", "aifc", "wave", "wma"]


def test_suffixes_with_ffmpeg(ffmpeg):
    touch(*(f"in/x.{suffix}" for suffix in NAMED))
    assert paths("in") == sorted(f"in/x.{suffix}" for suffix in NAMED)


def test_suffixes_without_ffmpeg(no_ffmpeg):
    touch(*(f"in/x.{suffix}" for suffix in NAMED))
    found = find_audio(["in"])
    assert set(found.left_out) == {".m4a", ".aac", ".webm", ".wma"} < set(FFMPEG_SUFFIXES)
    assert len(found.paths) == len(NAMED) - 4


def test_suffixes_of_an_older_libsndfile(no_ffmpeg, monkeypatch):
    formats = soundfile.available_formats()
    del formats["MP3"]
    monkeypatch.setattr(soundfile, "available_formats", lambda: formats)
    assert set(AUDIO_SUFFIXES) - set(audio_suffixes()) == {".mp3", ".mp2", ".mp1"}


# What libsndfile writes; the others need other programs.
@pytest.mark.parametrize(
    ("suffix", "kind", "subtype"),
    [
        ("wave", "WAV", "PCM_16"),
        ("bwf", "WAVEX", "PCM_16"),
        ("rf64", "RF64", "PCM_16"),
        ("w64", "W64", "PCM_16"),
        ("flac", "FLAC", "PCM_16"),
        ("oga", "OGG", "VORBIS"),
        ("opus", "OGG", "OPUS"),
        ("mp3", "MP3", "MPEG_LAYER_III"),
        ("aifc", "AIFF", "ULAW"),
        ("snd", "AU", "PCM_16"),
        ("caf", "CAF", "PCM_16"),
        ("sph", "NIST", "PCM_16"),
        ("sf", "IRCAM", "PCM_16"),
        ("voc", "VOC", "PCM_16"),
        ("8svx", "SVX", "PCM_16"),
        ("avr", "AVR", "PCM_16"),
        ("htk", "HTK", "PCM_16"),
        ("paf", "PAF", "PCM_16"),
        ("pvf", "PVF", "PCM_16"),
        ("sds", "SDS", "PCM_16"),
    ],
)
def test_a_suffix_is_of_a_format_that_is_read(suffix, kind, subtype):
    samples = np.sin(np.arange(16_000) / 5) / 2
    Path("in").mkdir()
    soundfile.write(f"in/x.{suffix}", samples, 16_000, format=kind, subtype=subtype)
    (path,) = find_audio(["in"]).paths
    assert len(load(path, 16_000).samples) == pytest.approx(16_000, abs=2_000)


def test_links_are_followed_once():
    touch("in/a/x.wav", "store/y.wav", "store/deep/z.wav", "one.wav")
    Path("in/loop").symlink_to("..", target_is_directory=True)
    Path("in/a/up").symlink_to(Path("in").resolve())
    Path("in/0store").symlink_to(Path("store").resolve())
    Path("in/store").symlink_to("0store")
    Path("in/one.wav").symlink_to("../one.wav")
    Path("in/broken.wav").symlink_to("nothing")
    Path("in/self.wav").symlink_to("self.wav")
    found = find_audio(["in"])
    assert list(map(str, found.paths)) == [
        "in/0store/deep/z.wav",
        "in/0store/y.wav",
        "in/a/x.wav",
        "in/broken.wav",
        "in/loop/one.wav",
        "in/self.wav",
    ]
    assert list(map(str, found.repeated_files)) == ["in/one.wav"]
    assert {"in/a/up", "in/store", "in/loop/in", "in/loop/store"} == set(
        map(str, found.repeated_folders)
    )
    assert not found.failures


def test_a_folder_keeps_its_own_name():
    touch("in/b/x.wav", "z/y.wav")
    Path("in/a").symlink_to("b")
    Path("in/c").symlink_to(Path("z").resolve())
    assert paths("in", "z") == ["in/b/x.wav", "z/y.wav"]


def test_given_twice():
    touch("in/a.wav", "in/b.wav")
    Path("link.wav").symlink_to("in/b.wav")
    Path("copy.wav").hardlink_to("in/a.wav")  # a name of its own, as a copy has one
    found = find_audio(["link.wav", "in", "in/a.wav", Path("in").resolve(), "in/../in/a.wav"])
    assert list(map(str, found.paths)) == ["link.wav", "in/a.wav"]
    assert list(map(str, found.repeated_files)) == ["in/b.wav", "in/a.wav", "in/../in/a.wav"]
    assert found.repeated_folders == [Path("in").resolve()]
    assert not found.failures
    assert paths("copy.wav", "in/a.wav") == ["copy.wav", "in/a.wav"]


def test_a_folder_without_audio_stops_no_other():
    touch("empty/notes.txt", "in/a.wav")
    Path("bare").mkdir()
    found = find_audio(["empty", "in", "bare"])
    assert found.paths == [Path("in/a.wav")]
    assert [(str(path), str(error)) for path, error in found.failures] == [
        (
            "empty",
            "empty: no audio in this folder but 1 .txt, expected files such as .wav, .flac, .ogg "
            "and .mp3",
        ),
        (
            "bare",
            "bare: no audio in this folder, expected files such as .wav, .flac, .ogg and .mp3",
        ),
    ]


def test_a_folder_that_cannot_be_listed_stops_no_other(tmp_path):
    root = os.geteuid() == 0  # whom permissions do not bind
    touch("in/a.wav", "in/closed/b.wav", "in/c/d.wav", "shut/e.wav")
    # pytest's own folders are private to its user.
    opened = [folder for folder in (tmp_path, *tmp_path.parents) if folder.owner() != "nobody"]
    before = {folder: folder.stat().st_mode for folder in opened if not folder.stat().st_mode & 1}
    Path("in/closed").chmod(0)
    Path("shut").chmod(0)
    try:
        if root:
            for folder, mode in before.items():
                folder.chmod(mode | 0o555)
            os.seteuid(65_534)
        found = find_audio(["in", "shut", "shut/e.wav"])
    finally:
        if root:
            os.seteuid(0)
        for folder, mode in before.items():
            folder.chmod(mode)
        for name in ("in/closed", "shut"):
            Path(name).chmod(0o755)
    assert found.paths == [Path("in/a.wav"), Path("in/c/d.wav"), Path("shut/e.wav")]
    reason = "Permission denied, expected a folder that may be read"
    assert [str(error) for _, error in found.failures] == [
        f"in/closed: {reason}",
        f"shut: {reason}",
    ]


def test_names_that_are_no_text():
    name = os.fsdecode(b"caf\xe9.wav")
    touch(f"in/{name}")
    assert paths("in") == [f"in/{name}"]
