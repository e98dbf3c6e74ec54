"""CREMA-D: acted emotions, split by actor."""

import re
from pathlib import Path

from .base import Example, Task, TaskInfo
from .files import audio_in, first_bytes, left_out, require
from .splits import draw_split

_VALID, _TEST = 0.1, 0.2
# ACTOR_SENTENCE_EMOTION_LEVEL; a few levels are X instead of XX.
_NAME = re.compile(r"(?P<actor>\d{4})_[A-Z]{3}_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_[A-Z]+")
# Said by the README to be faulty: (nearly) no audio, or another length than its sentence.
_FAULTY = ("1064_IEO_DIS_MD", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1076_MTI_SAD_XX")
_LFS = b"version https://git-lfs"


def read_crema_d(root: Path, seed: int) -> Task:
    """CREMA-D as in its repository: six emotions, read from the file names.

    70 % of the actors train, 10 % validate and 20 % test. Left out, with a note: the four clips
    that the README calls faulty, and audio with names of another form.

    Args:
        root: the repository's folder.
        seed: of the split.

    Raises:
        DatasetError: ``AudioWAV`` is missing, empty or has Git LFS pointers instead of audio.

    Source: Cao et al., "CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset" (2014), and
    the README of its repository; the shares of the actors, and 7 438 clips, as in TensorFlow
    Datasets' ``crema_d``.
    """
    require(CREMA_D, root, "AudioWAV")
    folder = root / "AudioWAV"
    names = audio_in(CREMA_D, root, folder)
    faulty = [name for name in names if Path(name).stem in _FAULTY]
    matches = {
        name: match
        for name in names
        if name not in faulty and (match := _NAME.fullmatch(Path(name).stem))
    }
    actors = {match["actor"] for match in matches.values()}
    if len(actors) < 3:
        raise CREMA_D.error(
            root, f"{folder} has clips of {len(actors)} actors, too few for a split in three"
        )
    # All of them: a `git lfs pull` that was stopped leaves the rest as pointers.
    pointers = [name for name in matches if first_bytes(folder / name, len(_LFS)) == _LFS]
    if pointers:
        raise CREMA_D.error(
            root,
            f"{folder / pointers[0]} is a Git LFS pointer and no audio, and so are "
            f"{len(pointers) - 1} more: run `git lfs pull` in {root}",
        )
    splits = draw_split(actors, _VALID, _TEST, seed)
    examples = [
        Example(path=folder / name, label=match["emotion"], split=splits[match["actor"]])
        for name, match in matches.items()
    ]
    others = [f"AudioWAV/{name}" for name in names if name not in matches and name not in faulty]
    notes = [
        f"the actors' split is drawn with seed {seed}: none is published",
        *left_out([f"AudioWAV/{name}" for name in faulty], "the README calls faulty"),
        *left_out(others, "is not named like 1001_DFA_ANG_XX.wav"),
    ]
    return CREMA_D.task(examples, notes)


CREMA_D = TaskInfo(
    name="crema_d",
    title="CREMA-D",
    classes=6,
    examples=7_438,
    seconds=2.5,
    protocol="70 / 10 / 20 % of the actors, drawn with a seed",
    homepage="https://github.com/CheyneyComputerScience/CREMA-D",
    size="0.6 GB on disk for AudioWAV",
    layout="""\
└── AudioWAV/
    ├── 1001_DFA_ANG_XX.wav     actor, sentence, emotion, level
    └── … (7 442 files, four of them faulty)""",
    read=read_crema_d,
)
