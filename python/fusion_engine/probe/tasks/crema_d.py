"""CREMA-D: acted emotions, split by actor."""

import re
from pathlib import Path

from ..._words import counted
from .base import Example, ReadOptions, Task, TaskInfo
from .files import audio_in, first_bytes, left_out, require
from .lists import apply_lists
from .splits import draw_split

_VALID, _TEST = 0.1, 0.2
# ACTOR_SENTENCE_EMOTION_LEVEL; a few levels are X instead of XX.
_NAME = re.compile(r"(?P<actor>\d{4})_[A-Z]{3}_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_[A-Z]+")
_UNUSABLE = {"AudioWAV/1076_MTI_SAD_XX.wav": "it has no sound, nor has its MP3"}
_LFS = b"version https://git-lfs"


def read_crema_d(root: Path, options: ReadOptions) -> Task:
    """CREMA-D as in its repository: six emotions, read from the file names.

    70 % of the actors train, 10 % validate and 20 % test. Left out, with a note, is the one WAV
    file without sound, ``1076_MTI_SAD_XX``, unless an exclude list says which clips are, and audio
    with names of another form. Other clips that are reported as faulty are so as MP3 or as video;
    their WAV files are sound.

    Args:
        root: the repository's folder.
        options: the seed of the split, and the user's lists.

    Raises:
        DatasetError: ``AudioWAV`` is missing, empty or has Git LFS pointers instead of audio; as
            ``apply_lists``.

    Source: Cao et al., "CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset" (2014), the
    README of its repository, and the issues there.
    """
    require(CREMA_D, root, "AudioWAV")
    folder = root / "AudioWAV"
    names = audio_in(CREMA_D, root, folder)
    matches = {name: match for name in names if (match := _NAME.fullmatch(Path(name).stem))}
    actors = {match["actor"] for match in matches.values()}
    if len(actors) < 3:
        raise CREMA_D.error(
            root,
            f"{folder} has clips of {counted(len(actors), 'actor')}, too few for a split",
        )
    # All of them: a `git lfs pull` that was stopped leaves the rest as pointers.
    pointers = [name for name in matches if first_bytes(folder / name, len(_LFS)) == _LFS]
    if pointers:
        more = f", and so are {len(pointers) - 1} more" if len(pointers) > 1 else ""
        raise CREMA_D.error(
            root,
            f"{folder / pointers[0]} is a Git LFS pointer and no audio{more}: run `git lfs pull` "
            f"in {root}",
        )
    splits = draw_split(actors, _VALID, _TEST, options.seed)
    examples, notes = apply_lists(
        CREMA_D,
        root,
        (
            Example(path=folder / name, label=match["emotion"], split=splits[match["actor"]])
            for name, match in matches.items()
        ),
        options,
        drawn=f"the actors' split is drawn with seed {options.seed}: the data set comes with none",
        unusable=_UNUSABLE,
    )
    others = [f"AudioWAV/{name}" for name in names if name not in matches]
    return CREMA_D.task(
        examples, [*notes, *left_out(others, "is not named like 1001_DFA_ANG_XX.wav")]
    )


CREMA_D = TaskInfo(
    name="crema_d",
    title="CREMA-D",
    classes=6,
    examples=7_441,
    seconds=2.5,
    protocol="70 / 10 / 20 % of the actors, drawn with a seed; or a list's",
    homepage="https://github.com/CheyneyComputerScience/CREMA-D",
    size="0.6 GB on disk for AudioWAV",
    layout="""\
└── AudioWAV/
    ├── 1001_DFA_ANG_XX.wav     actor, sentence, emotion, level
    └── … (7 442 files, one of them without sound)""",
    read=read_crema_d,
    lists=True,
)
