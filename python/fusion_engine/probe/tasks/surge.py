"""Surge pitch: which of 88 notes a synthesizer plays, split by tone."""

from pathlib import Path

from ..._words import counted
from .base import Example, ReadOptions, Task, TaskInfo
from .files import is_audio, left_out, require, scan
from .lists import apply_lists
from .splits import draw_split

# The notes of a grand piano, MIDI numbers.
LOWEST, HIGHEST = 21, 108
_VALID, _TEST = 0.1, 0.1


def read_surge(root: Path, options: ReadOptions) -> Task:
    """Surge pitch as unpacked: a folder per tone (preset), in it a file per note.

    The class is the file's stem, the note's MIDI number, written with three digits. The tone is
    the file's folder, at any depth below ``root``: 80 % of the tones train, 10 % validate and 10 %
    test. Audio with another stem is left out, with a note.

    Args:
        root: the folder of the tones, ``surge`` in the archive.
        options: the seed of the split, and the user's lists.

    Raises:
        DatasetError: fewer than three tones; as ``apply_lists``.

    Source: Turian et al., "One Billion Audio Sounds from GPU-enabled Modular Synthesis" (2021),
    which released the data set (Zenodo record 4677097).
    """
    require(SURGE, root)
    tones: dict[str, list[tuple[Path, str]]] = {}
    others: list[str] = []
    _walk(root, root, tones, others)
    if len(tones) < 3:
        raise SURGE.error(
            root,
            f"{root} has {counted(len(tones), 'folder')} with notes, too few for a split",
        )
    splits = draw_split(tones, _VALID, _TEST, options.seed)
    examples, notes = apply_lists(
        SURGE,
        root,
        (
            Example(path=path, label=note, split=splits[tone])
            for tone, clips in tones.items()
            for path, note in clips
        ),
        options,
        drawn=f"the tones' split is drawn with seed {options.seed}: the data set comes with none",
    )
    stray = left_out(sorted(others), f"is not named by a MIDI note, {LOWEST} to {HIGHEST}")
    return SURGE.task(examples, [*notes, *stray])


def _walk(
    root: Path, folder: Path, tones: dict[str, list[tuple[Path, str]]], others: list[str]
) -> None:
    clips = []
    folders, files = scan(SURGE, root, folder)
    for name in filter(is_audio, files):
        stem = Path(name).stem
        if stem.isascii() and stem.isdigit() and LOWEST <= int(stem) <= HIGHEST:
            clips.append((folder / name, f"{int(stem):03d}"))
        else:
            others.append(str(folder / name))
    if clips:
        tones[str(folder.relative_to(root))] = clips
    for name in folders:
        _walk(root, folder / name, tones, others)


SURGE = TaskInfo(
    name="surge",
    title="Surge pitch",
    classes=88,
    examples=None,
    seconds=4.0,
    protocol="80 / 10 / 10 % of the tones, drawn with a seed; or a list's",
    homepage="https://zenodo.org/record/4677097 (surge-velocity64-2K.tar)",
    size="7.6 GB on disk",
    layout="""\
├── …/                          a folder per tone, at any depth
│   ├── 21.ogg                  a file per note, MIDI 21 to 108
│   ├── …
│   └── 108.ogg
└── …""",
    read=read_surge,
    lists=True,
)
