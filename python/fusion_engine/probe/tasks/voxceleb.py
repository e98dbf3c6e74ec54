"""VoxCeleb1 identification: who speaks, with the published split."""

from pathlib import Path

from .base import Example, ReadOptions, Split, Task, TaskInfo
from .files import Inventory, hint, read_lines, require, scan

_LIST = "iden_split.txt"
_SPLITS: dict[str, Split] = {"1": "train", "2": "valid", "3": "test"}
# Both archives unpack to `wav`: side by side into one, or each in a folder of its own.
_TREES = ("wav", "dev/wav", "test/wav", "vox1_dev_wav/wav", "vox1_test_wav/wav")


def read_voxceleb1(root: Path, options: ReadOptions) -> Task:
    """VoxCeleb1 as unpacked, with the identification split beside it; the class is the speaker.

    Audio that the list does not name is left out, with a note.

    Args:
        root: the folder of ``iden_split.txt`` and of the unpacked archives.
        options: not used, the split is given.

    Raises:
        DatasetError: the list, or a clip that it names, is missing.

    Source: Nagrani, Chung and Zisserman, "VoxCeleb: a large-scale speaker identification dataset"
    (2017); the layout also as torchaudio's ``VoxCeleb1Identification`` documents it.
    """
    require(VOXCELEB1, root, _LIST)
    trees = [tree for tree in _TREES if (root / tree).is_dir()]
    if not trees:
        problem = f"{root / 'wav'} is missing{hint(VOXCELEB1, root, 'wav')}"
        raise VOXCELEB1.error(root, problem)
    inventories = [
        (tree, Inventory(VOXCELEB1, root / tree, _videos(root, root / tree))) for tree in trees
    ]
    place = {name: f"{tree}/{name}" for tree, found in inventories for name in found.names}
    examples = []
    absent = []
    for line, text in enumerate(read_lines(VOXCELEB1, root, _LIST), 1):
        number, _, name = text.partition(" ")
        if number not in _SPLITS or name.count("/") != 2:
            raise VOXCELEB1.error(
                root,
                f"line {line} of {_LIST} is {text!r}, not like '1 id10006/nLEBBc9oIFs/00003.wav'",
            )
        if name not in place:
            absent.append(name)
            continue
        label = name.split("/")[0]
        examples.append(Example(path=root / place[name], label=label, split=_SPLITS[number]))
    if absent:
        raise VOXCELEB1.error(
            root,
            f"{absent[0]}, named in {_LIST}, is in none of {', '.join(trees)}, and "
            f"{len(absent) - 1} more of the {len(absent) + len(examples)} clips that it names",
        )
    named = {"/".join(example.path.parts[-3:]) for example in examples}
    notes = [note for _, found in inventories for note in found.extra(named, _LIST)]
    return VOXCELEB1.task(examples, notes)


def _videos(root: Path, tree: Path) -> list[str]:
    return [
        f"{speaker}/{video}"
        for speaker in scan(VOXCELEB1, root, tree)[0]
        for video in scan(VOXCELEB1, root, tree / speaker)[0]
    ]


VOXCELEB1 = TaskInfo(
    name="voxceleb1",
    title="VoxCeleb1 identification",
    classes=1_251,
    examples=153_516,
    seconds=8.2,
    protocol="the published identification split (iden_split.txt)",
    homepage="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html",
    size="40 GB on disk",
    layout="""\
├── iden_split.txt              1 id10006/nLEBBc9oIFs/00003.wav
└── wav/                        vox1_dev_wav.zip and vox1_test_wav.zip, both
    ├── id10001/                (or dev/wav/ and test/wav/)
    │   ├── 1zcIwhmdeo4/
    │   │   ├── 00001.wav
    │   │   └── …
    │   └── …
    └── … (1 251 speakers)""",
    read=read_voxceleb1,
)
