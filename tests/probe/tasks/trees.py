"""Small data sets in the exact layouts of their distributors: a few clips, made in milliseconds."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from fusion_engine.probe.tasks.gtzan import GENRES
from fusion_engine.probe.tasks.speech_commands import WORDS
from fusion_engine.probe.tasks.voxforge import LANGUAGES


def audio(path: Path, *, rate: int = 16_000, channels: int = 1) -> Path:
    """10 ms of a ramp, in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.linspace(-0.5, 0.5, rate // 100)[:, None].repeat(channels, 1)
    kind = {"ogg": "OGG", "flac": "FLAC", "au": "AU"}.get(path.suffix[1:].lower(), "WAV")
    soundfile.write(path, samples, rate, format=kind)
    return path


def clutter(folder: Path) -> None:
    """What file managers leave in folders."""
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "._1-100032-A-0.wav").write_bytes(b"\0\5\26\7")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")


def table(path: Path, header: str, rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)


ESC50_CLIPS = [
    (f"{fold}-10003{target}-A-{target}.wav", fold, target, label)
    for fold in range(1, 6)
    for target, label in ((0, "dog"), (14, "chirping_birds"))
]


def esc50(root: Path) -> Path:
    # The rate is the model's business: here every third clip is at another one, and in stereo.
    for index, (name, *_) in enumerate(ESC50_CLIPS):
        audio(root / "audio" / name, rate=(44_100, 22_050)[index % 3 == 0], channels=1 + index % 2)
    table(
        root / "meta/esc50.csv",
        "filename,fold,target,category,esc10,src_file,take",
        [(*clip, target == 0, name[2:8], "A") for clip in ESC50_CLIPS
         for name, _, target, _ in (clip,)],
    )  # fmt: skip
    clutter(root / "audio")
    return root


def urbansound8k(root: Path) -> Path:
    rows = []
    for fold in range(1, 11):
        for class_id, label in ((0, "air_conditioner"), (3, "dog_bark")):
            name = f"{100_000 + fold}-{class_id}-0-{fold}.wav"
            audio(root / f"audio/fold{fold}" / name, rate=48_000, channels=2)
            rows.append((name, 100_000 + fold, 0.0, 0.317551, 1, fold, class_id, label))
    table(
        root / "metadata/UrbanSound8K.csv",
        "slice_file_name,fsID,start,end,salience,fold,classID,class",
        rows,
    )
    clutter(root / "audio")
    clutter(root / "audio/fold1")
    (root / "FREESOUNDCREDITS.txt").touch()
    return root


def speech_commands(root: Path) -> Path:
    for word in WORDS:
        for speaker in ("0165e0e8", "c50f55b8", "bb05582b"):
            path = root / word / f"{speaker}_nohash_0.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    audio(root / "_background_noise_" / "white_noise.wav")
    for name, speaker in (("validation", "c50f55b8"), ("testing", "bb05582b")):
        lines = [f"{word}/{speaker}_nohash_0.wav\n" for word in WORDS]
        (root / f"{name}_list.txt").write_text("".join(lines))
    clutter(root)
    clutter(root / "bed")
    return root


def voxceleb1(root: Path, trees: tuple[str, str] = ("wav", "wav")) -> Path:
    """Speakers of the two archives; ``trees`` says where each is unpacked to."""
    lines = []
    for speaker, tree in (("id10001", trees[0]), ("id10270", trees[1])):
        for number, video in ((1, "1zcIwhmdeo4"), (1, "7gWzIy6yIIk"), (2, "9mQ11vBs1wc"),
                              (3, "J9lHsKG98U8")):  # fmt: skip
            name = f"{speaker}/{video}/00001.wav"
            audio(root / tree / name)
            lines.append(f"{number} {name}\n")
    (root / "iden_split.txt").write_text("".join(lines))
    clutter(root / trees[0])
    return root


VOXFORGE_MAIN = "Trunk/Audio/Main/16kHz_16bit"


def voxforge_session(folder: Path, session: str, clips: int = 2) -> None:
    for number in range(clips):
        path = folder / session / "wav" / f"{number:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def voxforge(root: Path, speakers: int = 20) -> Path:
    """In each language ``speakers`` named users, the first with two sessions, and two anonymous."""
    for language in LANGUAGES:
        folder = root / language / VOXFORGE_MAIN
        users = [f"{language}user{index}-20080101-abc" for index in range(speakers)]
        users += [f"{language}User0-20090202_{language}1", "anonymous-20100303-a"]
        users += ["anonymous-20100304-b"]
        for index, session in enumerate(users):
            kind = ("wav", "flac")[index % 2]
            for name in (f"{language}-01.{kind}", f"{language}-02.{kind}"):
                path = folder / session / kind / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            (folder / session / "etc").mkdir()
            (folder / session / "etc" / "PROMPTS").touch()
    clutter(root)
    return root


# Said to be faulty, as MP3; and those that TensorFlow Datasets does not have.
CREMA_D_SOUND = ("1064_IEO_DIS_MD", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1006_TIE_NEU_XX",
                 "1013_WSI_DIS_XX", "1017_IWW_FEA_XX", "1040_ITH_SAD_XX")  # fmt: skip


def crema_d(root: Path, actors: int = 91) -> Path:
    (root / "AudioWAV").mkdir(parents=True)
    for actor in range(1001, 1001 + actors):
        for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"):
            (root / "AudioWAV" / f"{actor}_DFA_{emotion}_XX.wav").touch()
    (root / "AudioWAV" / "1001_ITH_SAD_X.wav").touch()
    for name in ("1076_MTI_SAD_XX", *CREMA_D_SOUND):
        (root / "AudioWAV" / f"{name}.wav").touch()
    clutter(root / "AudioWAV")
    (root / "VideoDemographics.csv").touch()
    return root


def gtzan(root: Path, clips: int = 20, *, tree: str = "genres", suffix: str = "wav") -> Path:
    for genre in GENRES:
        for index in range(clips):
            path = root / tree / genre / f"{genre}.{index:05d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b".snd" if suffix == "au" else b"RIFF\0\0\0\0WAVE")
    clutter(root / tree)
    return root


def gtzan_lists(root: Path) -> None:
    """The lists, in the three ways of naming a clip that are in use."""
    for name, first, last, form in (
        ("train", 0, 9, "{genre}/{genre}.{index:05d}.wav"),
        ("valid", 9, 13, "{genre}.{index:05d}.au"),
        ("test", 13, 19, "{genre}.{index:05d}"),
    ):
        lines = [form.format(genre=g, index=i) for g in GENRES for i in range(first, last)]
        (root / f"{name}_filtered.txt").write_text("\n".join(lines) + "\n")


FAMILIES = ("bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string",
            "synth_lead", "vocal")  # fmt: skip


def nsynth(root: Path) -> Path:
    for part in ("train", "valid", "test"):
        notes = {}
        for index, family in enumerate(FAMILIES):
            # As in the release: only the training part has synth_lead.
            if family == "synth_lead" and part != "train":
                continue
            note = f"{family}_acoustic_{index:03d}-024-025"
            notes[note] = {
                "note": index, "note_str": note, "pitch": 24, "velocity": 25,
                "instrument_family": index, "instrument_family_str": family,
            }  # fmt: skip
            audio(root / f"nsynth-{part}/audio/{note}.wav")
        (root / f"nsynth-{part}/examples.json").write_text(json.dumps(notes))
        clutter(root / f"nsynth-{part}/audio")
    return root


def surge(root: Path, tones: int = 10, suffix: str = "ogg") -> Path:
    for tone in range(tones):
        folder = root / "patches_factory" / ("Basses", "Leads")[tone % 2] / f"Tone {tone}"
        folder.mkdir(parents=True)
        for note in range(21, 109):
            (folder / f"{note}.{suffix}").touch()
    clutter(root)
    return root
