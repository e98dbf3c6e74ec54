"""VoxForge: which language is spoken, split by speaker."""

import re
from collections import Counter, defaultdict
from pathlib import Path

from .base import Example, Task, TaskInfo
from .files import audio_in, is_audio, left_out, scan
from .splits import draw_split

LANGUAGES = ("de", "en", "es", "fr", "it", "ru")
_VALID, _TEST = 0.15, 0.15
_SESSION = re.compile(r"(?P<user>.*?)-(?P<day>\d{8})(?:-.*)?")


def read_voxforge(root: Path, seed: int) -> Task:
    """VoxForge as downloaded and unpacked; the class is the folder below ``root``.

    A session is a folder ``USER-YYYYMMDD-XXX`` at any depth below a language's, with the audio in
    ``wav`` or else ``flac``. Its speaker is USER, in all languages. Users named ``anonymous`` are
    many: those of one language and day are taken for one speaker. A session that is not named
    like this is a speaker of its own.

    70 % of the speakers train, 15 % validate and 15 % test; drawn for each language, so that each
    is in every split (a speaker of several counts for the one with most of his sessions).

    Args:
        root: the folder of the languages.
        seed: of the split.

    Raises:
        DatasetError: a language is missing or an archive is not unpacked.

    Source: voxforge.org and its file server; the six languages and the rule for users also as in
    TensorFlow Datasets' ``voxforge``, where all anonymous users are one.
    """
    if not root.is_dir():
        raise VOXFORGE.error(root, f"{root} is {'a file' if root.exists() else 'missing'}")
    folders = scan(VOXFORGE, root, root)[0]
    absent = [language for language in LANGUAGES if language not in folders]
    if absent:
        raise VOXFORGE.error(root, f"{root / absent[0]} is missing")
    clips: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    sessions: dict[str, Counter[str]] = defaultdict(Counter)
    stray: list[str] = []
    for language in LANGUAGES:
        for folder in _sessions(root, root / language, stray):
            speaker = _speaker(folder.parent.name, language)
            sessions[speaker][language] += 1
            clips[speaker] += [
                (folder / name, language) for name in audio_in(VOXFORGE, root, folder)
            ]
    homes: dict[str, list[str]] = {language: [] for language in LANGUAGES}
    for speaker, counts in sessions.items():
        homes[max(sorted(counts), key=lambda language: counts[language])].append(speaker)
    for language, speakers in homes.items():
        if len(speakers) < 3:
            raise VOXFORGE.error(
                root,
                f"{root / language} has sessions of {len(speakers)} speakers, too few for a split "
                "in three",
            )
    splits = {
        speaker: split
        for language, speakers in homes.items()
        for speaker, split in draw_split(speakers, _VALID, _TEST, seed, part=language).items()
    }
    examples = [
        Example(path=path, label=language, split=splits[speaker])
        for speaker, found in clips.items()
        for path, language in found
    ]
    notes = [
        f"the speakers' split is drawn with seed {seed}: none is published",
        *(
            f"left out the folder {folder}: none of the languages {' '.join(LANGUAGES)}"
            for folder in folders
            if folder not in LANGUAGES
        ),
        *left_out(sorted(stray), "is in no session's wav or flac folder"),
    ]
    return VOXFORGE.task(examples, notes)


def _sessions(root: Path, folder: Path, stray: list[str]) -> list[Path]:
    """The audio folders of the sessions below ``folder``."""
    folders, files = scan(VOXFORGE, root, folder)
    unpacked = set(folders)
    for name in files:
        if (session := name.removesuffix(".tgz")) != name and session not in unpacked:
            raise VOXFORGE.error(root, f"{folder / name} is not unpacked")
    stray += [str(folder / name) for name in files if is_audio(name)]
    for audio in ("wav", "flac"):
        if audio in folders:
            return [folder / audio]
    return [found for name in folders for found in _sessions(root, folder / name, stray)]


def _speaker(session: str, language: str) -> str:
    match = _SESSION.fullmatch(session)
    if match is None or not match["user"]:
        return f"{language}/{session}"
    if match["user"].casefold() == "anonymous":
        return f"{language}/anonymous-{match['day']}"
    return match["user"]


VOXFORGE = TaskInfo(
    name="voxforge",
    title="VoxForge",
    classes=6,
    examples=None,
    seconds=5.8,
    protocol="70 / 15 / 15 % of the speakers of each language, drawn with a seed",
    homepage="http://www.voxforge.org/home/downloads",
    size="60 GB on disk",
    layout="""\
├── de/
│   └── …/                      any folders between, such as Trunk/Audio/Main/16kHz_16bit/
│       ├── ralfherzog-20070811-de1/
│       │   └── wav/            or flac/
│       │       ├── de1-01.wav
│       │       └── …
│       └── …
├── en/
├── es/
├── fr/
├── it/
└── ru/""",
    read=read_voxforge,
)
