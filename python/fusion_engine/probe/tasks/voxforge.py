"""VoxForge: which language is spoken, split by speaker."""

import re
from collections import Counter, defaultdict
from pathlib import Path

from ..._words import counted
from .base import SPLITS, Example, ReadOptions, Split, Task, TaskInfo
from .files import audio_in, is_audio, left_out, scan
from .lists import apply_lists
from .splits import draw_by_size

# The folders of a language: ours, and those of the file server.
LANGUAGES: dict[str, tuple[str, ...]] = {
    "de": ("de",),
    "en": ("en", "SpeechCorpus"),
    "es": ("es",),
    "fr": ("fr",),
    "it": ("it",),
    "ru": ("ru", "Russian"),
}
_VALID, _TEST = 0.15, 0.15
# Of a language's clips; who has more trains, where others can fill the smaller splits.
_LARGE = 0.05
_ANONYMOUS = "anonymous"
# USER-YYYYMMDD-XXX, USER-YYYYMMDD_de1, USER-YYYYMMDD, with an hour after the day.
_SESSION = re.compile(r"(?P<user>.+?)[-_]?(?<!\d)\d{8,10}(?!\d).*")


def read_voxforge(root: Path, options: ReadOptions) -> Task:
    """VoxForge as downloaded and unpacked; the class is the folder below ``root``.

    English is in ``en`` or, as on the file server, in ``SpeechCorpus``, Russian in ``ru`` or
    ``Russian``. A session is a folder ``USER-YYYYMMDD-XXX`` or ``USER-YYYYMMDD_XXX`` at any depth
    below a language's, with the audio in ``wav`` or else ``flac``; one that is there twice (the
    server has some at several rates) counts once. Its speaker is USER, in any case and in all
    languages; without a date the name up to the first hyphen or underscore.

    Users named ``anonymous`` are many people, any of whom may come again under that name. So all
    of their clips train. Of the others 15 % of each language's clips validate and 15 % are for
    test, by whole speakers; a speaker with more than 5 % of a language's clips trains, wherever
    the others can fill the smaller splits. A speaker of several languages counts for the one with
    most of his clips, and is in one split.

    Args:
        root: the folder of the languages.
        options: the seed of the split, and the user's lists.

    Raises:
        DatasetError: a language is missing or an archive is not unpacked; as ``apply_lists``.

    Source: voxforge.org and its file server; the six languages as in TensorFlow Datasets'
    ``voxforge``, where all anonymous users are one.
    """
    if not root.is_dir():
        raise VOXFORGE.error(root, f"{root} is {'a file' if root.exists() else 'missing'}")
    folders = scan(VOXFORGE, root, root)[0]
    used = {name: language for language, names in LANGUAGES.items() for name in names}
    for names in LANGUAGES.values():
        if not any(name in folders for name in names):
            others = "".join(f", and so is {root / name}" for name in names[1:])
            raise VOXFORGE.error(root, f"{root / names[0]} is missing{others}")
    clips: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    stray: list[str] = []
    seen: set[tuple[str, str]] = set()
    twice: list[str] = []
    for name in filter(used.__contains__, folders):
        language = used[name]
        for folder in _sessions(root, root / name, stray):
            session = folder.parent.name
            if (language, session) in seen:
                twice.append(folder.parent.relative_to(root).as_posix())
                continue
            seen.add((language, session))
            clips[_speaker(session)] += [
                (folder / file, language) for file in audio_in(VOXFORGE, root, folder)
            ]
    splits = _draw(root, clips, options.seed)
    examples = [
        Example(path=path, label=language, split=splits[speaker])
        for speaker, found in clips.items()
        for path, language in found
    ]
    kept, notes = apply_lists(
        VOXFORGE, root, examples, options, drawn=_about_draw(examples, clips, options.seed)
    )
    if twice:
        notes.append(
            f"left out {counted(len(twice), 'session')} that {_are(twice)} there under the same "
            f"name already, such as {twice[0]}"
        )
    notes += [
        f"left out the folder {folder}: none of the languages {' '.join(LANGUAGES)}"
        for folder in folders
        if folder not in used
    ]
    notes += left_out(sorted(stray), "is in no session's wav or flac folder")
    return VOXFORGE.task(kept, notes)


def _draw(root: Path, clips: dict[str, list[tuple[Path, str]]], seed: int) -> dict[str, Split]:
    """The split of each speaker."""
    totals = Counter(language for found in clips.values() for _, language in found)
    sizes: dict[str, dict[str, int]] = {language: {} for language in LANGUAGES}
    for speaker, found in clips.items():
        counts = Counter(language for _, language in found)
        if speaker != _ANONYMOUS and counts:
            home = max(sorted(counts), key=lambda language: counts[language])
            sizes[home][speaker] = counts[home]
    splits: dict[str, Split] = {_ANONYMOUS: "train"}
    for language, speakers in sizes.items():
        if len(speakers) < 3:
            raise VOXFORGE.error(
                root,
                f"{language} has clips of {counted(len(speakers), 'named speaker')}, too few "
                "for a split in three",
            )
        splits |= draw_by_size(
            speakers,
            _VALID,
            _TEST,
            seed,
            total=totals[language],
            large=int(_LARGE * totals[language]),
            part=language,
        )
    return splits


def _about_draw(
    examples: list[Example], clips: dict[str, list[tuple[Path, str]]], seed: int
) -> str:
    """The note on a split that was drawn."""
    counts = Counter(example.split for example in examples)
    shares = " / ".join(f"{100 * counts[split] / len(examples):.0f}" for split in SPLITS)
    anonymous = len(clips.get(_ANONYMOUS, ()))
    return (
        f"the speakers' split is drawn with seed {seed}, {shares} % of the clips in train / valid "
        "/ test: the data set comes with none; speakers with more than "
        f"{100 * _LARGE:.0f} % of a language's clips train where others can fill the smaller "
        f"splits, and so do all {counted(anonymous, 'clip')} of anonymous users"
    )


def _are(items: list[str]) -> str:
    return "is" if len(items) == 1 else "are"


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


def _speaker(session: str) -> str:
    """Who speaks in a session; a session of nobody in particular is an anonymous one."""
    match = _SESSION.fullmatch(session)
    user = match["user"] if match else re.split("[-_]", session)[0]
    return user.strip(" -_").casefold() or _ANONYMOUS


VOXFORGE = TaskInfo(
    name="voxforge",
    title="VoxForge",
    classes=6,
    examples=None,
    seconds=5.8,
    protocol="70 / 15 / 15 % of the clips of each language, by whole speakers, drawn with a seed; "
    "or a list's",
    homepage="http://www.voxforge.org/home/downloads",
    size="60 GB on disk",
    layout="""\
├── de/
│   └── …/                      any folders between, such as Trunk/Audio/Main/16kHz_16bit/
│       ├── guenter-20140214-afn/
│       │   └── wav/            or flac/
│       │       ├── de5-001.wav
│       │       └── …
│       └── …
├── en/                         or SpeechCorpus/, as on the file server
├── es/
├── fr/
├── it/
└── ru/                         or Russian/""",
    read=read_voxforge,
    lists=True,
)
