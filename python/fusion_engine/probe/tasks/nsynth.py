"""NSynth: which family of instruments plays a note."""

import json
from pathlib import Path
from typing import Any

from .base import Example, ReadOptions, Split, Task, TaskInfo
from .files import Inventory, require

_PARTS: tuple[tuple[str, Split], ...] = (
    ("nsynth-train", "train"),
    ("nsynth-valid", "valid"),
    ("nsynth-test", "test"),
)


def read_nsynth(root: Path, options: ReadOptions) -> Task:
    """NSynth (json/wav release) as unpacked: the class is ``instrument_family_str``.

    Audio that ``examples.json`` does not name is left out, with a note.

    Args:
        root: the folder of the three unpacked archives.
        options: not used, the split is given.

    Raises:
        DatasetError: one of the three parts, or a note that it names, is missing.

    Source: Engel et al., "Neural Audio Synthesis of Musical Notes with WaveNet Autoencoders"
    (2017), and the data set's page.
    """
    require(NSYNTH, root, *(f"{part}/{name}" for part, _ in _PARTS for name in _CONTENT))
    examples = []
    notes = []
    for part, split in _PARTS:
        table = f"{part}/examples.json"
        families = _families(root, table)
        names = [f"{part}/audio/{note}.wav" for note in families]
        inventory = Inventory(NSYNTH, root, [f"{part}/audio"])
        inventory.require(names, table)
        notes += inventory.extra(names, table)
        examples += [
            Example(path=root / name, label=label, split=split)
            for name, label in zip(names, families.values(), strict=True)
        ]
    return NSYNTH.task(examples, notes)


_CONTENT = ("examples.json", "audio")


def _families(root: Path, table: str) -> dict[str, str]:
    """The family of each note."""
    try:
        found: Any = json.loads((root / table).read_bytes())
        return {str(note): str(about["instrument_family_str"]) for note, about in found.items()}
    except (OSError, ValueError) as error:
        raise NSYNTH.error(root, f"{root / table} cannot be read ({error})") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise NSYNTH.error(
            root, f"{root / table} has a note with no instrument_family_str"
        ) from error


NSYNTH = TaskInfo(
    name="nsynth",
    title="NSynth instrument family",
    classes=11,
    examples=305_979,
    seconds=4.0,
    protocol="the published split",
    homepage="https://magenta.tensorflow.org/datasets/nsynth (the json/wav files)",
    size="40 GB on disk",
    layout="""\
├── nsynth-train/
│   ├── audio/
│   │   ├── bass_acoustic_000-024-025.wav
│   │   └── …
│   └── examples.json       {"bass_acoustic_000-024-025": {"instrument_family_str": "bass"}, …}
├── nsynth-valid/
│   ├── audio/
│   └── examples.json
└── nsynth-test/
    ├── audio/
    └── examples.json""",
    read=read_nsynth,
)
