"""GTZAN: musical genres, with the fault-filtered split where its lists are there."""

from collections import Counter
from pathlib import Path

from .base import SPLITS, Example, ReadOptions, Split, Task, TaskInfo
from .files import audio_in, first_bytes, hint, read_lines, require, scan
from .lists import apply_lists
from .splits import draw_split

GENRES = (
    "blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock",
)  # fmt: skip
_FOLDERS = ("genres", "genres_original")
_FILTERED = {"train": 443, "valid": 197, "test": 290}
_TOTAL = sum(_FILTERED.values())
# WAV, big-endian WAV, AU, AIFF, FLAC, OGG.
_MAGIC = (b"RIFF", b"RIFX", b".snd", b"FORM", b"fLaC", b"OggS")


def read_gtzan(root: Path, options: ReadOptions) -> Task:
    """GTZAN as unpacked; the class is the genre's folder.

    The split is that of ``train_filtered.txt``, ``valid_filtered.txt`` and ``test_filtered.txt``
    (443, 197 and 290 clips), if the user has put them into ``root``; one clip per line, read by
    the name alone (``blues/blues.00029.wav`` and ``blues.00029`` are the same), or that of a split
    list. Without either the clips of each genre are drawn in the same proportions whoever their
    artist is, which the notes say.

    Files that begin like no audio format (``jazz.00054.wav`` of a common release) are left out,
    with a note, and so is ``jazz.00054`` where it is missing.

    Args:
        root: the folder of ``genres`` or ``genres_original``.
        options: the seed of the split where it is drawn, and the user's lists.

    Raises:
        DatasetError: a genre, one of the three lists or a listed clip is missing; as
            ``apply_lists``.

    Source: Tzanetakis and Cook, "Musical genre classification of audio signals" (2002);
    Kereliuk, Sturm and Larsen, "Deep Learning and Music Adversaries" (2015) for the filtered
    split; Sturm (2013) for the faults; the broken file as in Hugging Face's ``marsyas/gtzan``.
    """
    require(GTZAN, root)
    tree = next((name for name in _FOLDERS if (root / name).is_dir()), None)
    if tree is None:
        raise GTZAN.error(root, f"{root / 'genres'} is missing{hint(GTZAN, root, 'genres')}")
    require(GTZAN, root, *(f"{tree}/{genre}" for genre in GENRES))
    clips: dict[str, Path] = {}
    broken = {"jazz.00054"}
    for genre in GENRES:
        folder = root / tree / genre
        for name in audio_in(GTZAN, root, folder):
            clip = Path(name).stem
            if clip in clips:
                raise GTZAN.error(root, f"{folder} has {clips[clip].name} and {name}: keep one")
            if first_bytes(folder / name, 4) in _MAGIC:
                clips[clip] = folder / name
            else:
                broken.add(clip)
    notes = [
        f"left out {clip}: missing, or broken as in a common release"
        for clip in sorted(broken - clips.keys())
    ]
    notes += [
        f"left out the folder {name}: none of the ten genres"
        for name in scan(GTZAN, root, root / tree)[0]
        if name not in GENRES
    ]
    splits = None if options.split_list else _listed(root, clips, broken)
    if splits is None:
        splits = _drawn(clips, options.seed)
        about = (
            "the split is NOT the fault-filtered one: without train_filtered.txt, "
            "valid_filtered.txt and test_filtered.txt the clips of each genre were drawn with seed "
            f"{options.seed}, with artists and repeated recordings on both sides, which flatters "
            "every model; such numbers compare with each other only"
        )
    else:
        about = _about_lists(splits, clips)
    examples, more = apply_lists(
        GTZAN,
        root,
        (
            Example(path=path, label=path.parent.name, split=splits[clip])
            for clip, path in clips.items()
            if clip in splits
        ),
        options,
        drawn=about,
        absent=broken,
    )
    return GTZAN.task(examples, notes + more)


def _about_lists(splits: dict[str, Split], clips: dict[str, Path]) -> str:
    counts = Counter(split for clip, split in splits.items() if clip in clips)
    shares = " / ".join(str(counts[split]) for split in SPLITS)
    if counts == _FILTERED:
        return f"the fault-filtered split, {shares} clips in train / valid / test"
    return (
        f"the lists have {shares} clips in train / valid / test, the fault-filtered split has "
        "443 / 197 / 290"
    )


def _listed(root: Path, clips: dict[str, Path], broken: set[str]) -> dict[str, Split] | None:
    """The split of the user's lists; ``None`` where there is none of the three."""
    lists = {split: f"{split}_filtered.txt" for split in SPLITS}
    if not any((root / name).exists() for name in lists.values()):
        return None
    require(GTZAN, root, *lists.values())
    splits: dict[str, Split] = {}
    for split, name in lists.items():
        for line in read_lines(GTZAN, root, name):
            clip = _clip(line)
            if clip not in clips and clip not in broken:
                raise GTZAN.error(root, f"{line}, named in {name}, is missing")
            if splits.setdefault(clip, split) != split:
                raise GTZAN.error(root, f"{line} is named in {lists[splits[clip]]} and in {name}")
    return splits


def _clip(line: str) -> str:
    name = line.rpartition("/")[2]
    genre, _, rest = name.partition(".")
    return f"{genre}.{rest.partition('.')[0]}"


def _drawn(clips: dict[str, Path], seed: int) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for genre in GENRES:
        names = [clip for clip, path in clips.items() if path.parent.name == genre]
        splits |= draw_split(
            names, _FILTERED["valid"] / _TOTAL, _FILTERED["test"] / _TOTAL, seed, part=genre
        )
    return splits


GTZAN = TaskInfo(
    name="gtzan",
    title="GTZAN",
    classes=10,
    examples=None,
    seconds=30.0,
    protocol="the fault-filtered split, 443 / 197 / 290 clips, by three lists that you supply, or "
    "a list's; else a stratified one that ignores artists",
    homepage="http://marsyas.info/downloads/datasets.html (the lists: "
    "https://github.com/jongpillee/music_dataset_split)",
    size="1.3 GB on disk",
    layout="""\
├── genres/                     or genres_original/
│   ├── blues/
│   │   ├── blues.00000.wav     or .au
│   │   └── … (100 files)
│   └── … (10 genres)
├── train_filtered.txt          blues/blues.00029.wav
├── valid_filtered.txt
└── test_filtered.txt""",
    read=read_gtzan,
    lists=True,
)
