"""Speech Commands V2: one word per clip, splits from its two lists."""

from pathlib import Path

from .base import Example, ReadOptions, Split, Task, TaskInfo
from .files import Inventory, read_lines, require, scan

WORDS = (
    "backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward",
    "four", "go", "happy", "house", "learn", "left", "marvin", "nine", "no", "off", "on",
    "one", "right", "seven", "sheila", "six", "stop", "three", "tree", "two", "up", "visual",
    "wow", "yes", "zero",
)  # fmt: skip
_NOISE = "_background_noise_"
_LISTS: tuple[tuple[str, Split], ...] = (
    ("validation_list.txt", "valid"),
    ("testing_list.txt", "test"),
)


def read_speech_commands(root: Path, options: ReadOptions) -> Task:
    """Speech Commands V2 as unpacked: 35 words; what neither list names is for training.

    ``_background_noise_`` is no class. Other folders are left out, with a note.

    Args:
        root: the folder speech_commands_v0.02.
        options: not used, the split is given.

    Raises:
        DatasetError: a word's folder or a listed file is missing.

    Source: Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition" (2018),
    and the README that comes with it.
    """
    require(SPEECH_COMMANDS, root, *(name for name, _ in _LISTS), *WORDS)
    folders = scan(SPEECH_COMMANDS, root, root)[0]
    inventory = Inventory(SPEECH_COMMANDS, root, WORDS)
    splits: dict[str, Split] = {}
    for name, split in _LISTS:
        listed = read_lines(SPEECH_COMMANDS, root, name)
        inventory.require(listed, name)
        twice = [line for line in listed if line in splits]
        if twice:
            raise SPEECH_COMMANDS.error(
                root, f"{twice[0]} is named in {_LISTS[0][0]} and in {_LISTS[1][0]}"
            )
        splits.update(dict.fromkeys(listed, split))
    examples = [
        Example(path=root / name, label=name.split("/")[0], split=splits.get(name, "train"))
        for name in inventory.names
    ]
    others = [name for name in folders if name not in WORDS and name != _NOISE]
    notes = [f"left out the folder {name}: none of the 35 words" for name in others]
    return SPEECH_COMMANDS.task(examples, notes)


SPEECH_COMMANDS = TaskInfo(
    name="speech_commands",
    title="Speech Commands V2",
    classes=35,
    examples=105_829,
    seconds=1.0,
    protocol="the published split (validation_list.txt, testing_list.txt)",
    homepage="http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
    size="3.8 GB on disk",
    layout="""\
├── _background_noise_/         not a class
├── backward/
│   ├── 0165e0e8_nohash_0.wav
│   └── …
├── … (35 words)
├── zero/
├── testing_list.txt            right/bb05582b_nohash_3.wav
└── validation_list.txt""",
    read=read_speech_commands,
)
