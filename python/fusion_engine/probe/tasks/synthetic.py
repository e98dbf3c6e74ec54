"""Tasks that need no download: generated audio, written once."""

import csv
import io
import wave
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

from ..._atomic import atomic_path, write_error
from ..._cache import cache_folder
from .base import ReadOptions, Split, Task, TaskInfo
from .own import read_csv
from .synthesis import SAMPLE_RATE, SAMPLES, SOUNDS, clip

# Raised with every change of the sounds, so that old ones are not taken for new ones.
_VERSION = 1
# Clips of each class.
_CLIPS: dict[Split, int] = {"train": 16, "valid": 4, "test": 10}
_TABLE = "task.csv"


def synthetic_folder() -> Path:
    """Where the synthetic tasks are kept when no folder is named."""
    return cache_folder() / "synthetic"


def read_synthetic(root: Path, options: ReadOptions, *, task: str) -> Task:
    """One of the synthetic tasks, generated into ``root`` where it is not there yet.

    ``root/TASK-VERSION-SEED`` holds WAV files (PCM16, 16 kHz, 1 s) and ``task.csv``, a table as
    ``read_csv`` takes it, with the files' SHA-256: what is whole is used again, anything else is
    written anew.

    Args:
        root: a folder, made if need be.
        options: its seed is that of the audio.
        task: ``pitch``, ``timbre``, ``rhythm`` or ``events``.

    Raises:
        FusionEngineError: ``root`` cannot be written.
    """
    info = next(info for info in SYNTHETIC if info.name == f"synthetic_{task}")
    folder = root / f"{task}-{_VERSION}-{options.seed}"
    if not _is_whole(folder, task):
        _write(folder, task, options.seed)
    return info.task(read_csv(folder / _TABLE).examples)


def _rows(task: str) -> list[tuple[str, str, Split]]:
    """File name, label and split of every clip."""
    names = [split for split, count in _CLIPS.items() for _ in range(count)]
    return [
        (f"{number}-{index:02d}.wav", label, split)
        for number, label in enumerate(SOUNDS[task])
        for index, split in enumerate(names)
    ]


def _is_whole(folder: Path, task: str) -> bool:
    """Whether the table is the one expected and every file has the hash that it says."""
    try:
        with (folder / _TABLE).open(newline="", encoding="utf-8") as file:
            table = [tuple(row) for row in csv.reader(file)][1:]
        return [row[:3] for row in table] == _rows(task) and all(
            sha256((folder / name).read_bytes()).hexdigest() == digest
            for name, _, _, digest in table
        )
    except (OSError, ValueError):
        return False


def _write(folder: Path, task: str, seed: int) -> None:
    """Write the audio, and after it the table: without the table it does not count."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(("file_name", "label", "split", "sha256"))
    place = list(SOUNDS).index(task)
    for number, (name, label, split) in enumerate(_rows(task)):
        samples = clip(task, label, np.random.default_rng([_VERSION, seed, place, number]))
        data = _wav(samples.tobytes())
        with atomic_path(folder / name) as path:
            path.write_bytes(data)
        writer.writerow((name, label, split, sha256(data).hexdigest()))
    with atomic_path(folder / _TABLE) as path:
        path.write_text(table.getvalue(), encoding="utf-8", newline="")


def _wav(samples: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLE_RATE)
        sound.writeframes(samples)
    return file.getvalue()


def _info(task: str) -> TaskInfo:
    classes = len(SOUNDS[task])
    examples = classes * sum(_CLIPS.values())
    return TaskInfo(
        name=f"synthetic_{task}",
        title=f"Synthetic {task}",
        classes=classes,
        examples=examples,
        seconds=SAMPLES / SAMPLE_RATE,
        protocol="generated with a seed: "
        + " / ".join(f"{count * classes}" for count in _CLIPS.values())
        + " clips in train / valid / test",
        homepage="nowhere: it is generated",
        size=f"{examples * SAMPLES * 2 / 1e6:.0f} MB on disk",
        layout=f"""\
└── {task}-{_VERSION}-SEED/
    ├── 0-00.wav
    ├── …
    └── {_TABLE}""",
        read=partial(read_synthetic, task=task),
    )


SYNTHETIC = tuple(_info(task) for task in SOUNDS)
