"""What holds for a folder of parts beside the job's use of it: damage, and several writers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusion_engine import FusionEngineError
from fusion_engine.journal import Added, DamagedPart, Finished, Journal, journal
from fusion_engine.journal import part as part_module
from fusion_engine.output import Row, RowLayout

DIM = 8
LAYOUT = RowLayout(embedding_dim=DIM)
KEYS = [f"key {number}" for number in range(7)]


@pytest.fixture(autouse=True)
def _no_timer(monkeypatch):
    monkeypatch.setattr(journal, "_FLUSH_SECONDS", 1e6)


def vector(key):
    return np.array([[ord(letter) for letter in f"{key:>8}"[:DIM]]], np.float32)


def note(kept, key):
    row = Row(path=key, end=1.0, duration=1.0)
    kept.note(
        (Added(key, "", 0, 1), ([row], vector(key))), (Finished(key, "", 1, 1.0, False), None)
    )


def read(kept, keys):
    """The embeddings of those ``keys`` that are there."""
    known = [key for key in keys if kept.get(key) is not None]
    found = [rows for _, rows in kept.read(keys)]
    return known, np.concatenate(found) if found else np.zeros((0, DIM), np.float32)


def expected(keys):
    return np.concatenate([vector(key) for key in keys])


def test_no_flipped_bit_is_served(tmp_path, monkeypatch):
    """Also of the metadata, for which Parquet has no checksum."""
    monkeypatch.setattr(part_module, "_GROUP_BYTES", 3 * 4 * DIM)
    with Journal(tmp_path, LAYOUT) as kept:
        for key in KEYS:
            note(kept, key)
    (part,) = tmp_path.iterdir()
    whole = part.read_bytes()
    damaged = 0
    for place in range(5, len(whole), 23):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        part.write_bytes(content)
        try:
            with Journal(tmp_path, LAYOUT) as kept:
                known, rows = read(kept, KEYS)
        except DamagedPart:
            damaged += 1
            continue
        damaged += not known
        assert known in ([], KEYS)
        assert not known or np.array_equal(rows, expected(KEYS))
    assert damaged > 100


def test_rows_of_another_layout_are_refused(tmp_path):
    with Journal(tmp_path, LAYOUT) as kept:
        note(kept, KEYS[0])
    with (
        Journal(tmp_path, RowLayout(embedding_dim=DIM // 2)) as kept,
        pytest.raises(DamagedPart, match="it has columns"),
    ):
        list(kept.read(KEYS))


def test_a_damaged_part_is_dropped_with_its_keys_alone(tmp_path):
    for keys in (KEYS[:2], KEYS[2:]):
        with Journal(tmp_path, LAYOUT) as kept:
            for key in keys:
                note(kept, key)
    first, second = sorted(tmp_path.iterdir())
    content = first.read_bytes()
    with Journal(tmp_path, LAYOUT) as kept:
        flipped = bytearray(content)
        flipped[content.index(vector(KEYS[1]).tobytes())] ^= 1
        first.write_bytes(flipped)
        with pytest.raises(DamagedPart, match=r"part-000001\.parquet") as caught:
            list(kept.read(KEYS))
        kept.drop(caught.value)
        assert sorted(tmp_path.iterdir()) == [second]
        known, rows = read(kept, KEYS)
        assert known == KEYS[2:]
        np.testing.assert_array_equal(rows, expected(known))
        assert kept.kept == (5, 5)


def test_a_part_of_this_run_that_is_damaged_is_an_error(tmp_path):
    """A disk that keeps nothing would be written to for ever."""
    with Journal(tmp_path, LAYOUT) as kept:
        note(kept, KEYS[0])
        kept.flush()
        (part,) = tmp_path.iterdir()
        part.write_bytes(part.read_bytes()[:-9])
        with pytest.raises(DamagedPart) as caught:
            list(kept.read(KEYS))
        with pytest.raises(FusionEngineError, match="remove it and run the same command again"):
            kept.drop(caught.value)


def test_a_part_that_another_process_removed(tmp_path):
    with Journal(tmp_path, LAYOUT) as kept:
        note(kept, KEYS[0])
    with Journal(tmp_path, LAYOUT, shared=True) as kept:
        for part in tmp_path.iterdir():
            part.unlink()
        with pytest.raises(DamagedPart) as caught:
            list(kept.read(KEYS))
        kept.drop(caught.value)
        assert kept.get(KEYS[0]) is None


WRITER = """
import sys
from pathlib import Path
from fusion_engine.journal import Journal, journal
from tests.journal.test_journal import KEYS, LAYOUT, note

journal._FLUSH_SECONDS = 0.002
with Journal(Path(sys.argv[1]), LAYOUT, shared=True) as kept:
    print(flush=True)
    sys.stdin.readline()
    for turn in range(30):
        for key in KEYS:
            note(kept, f"{key} {sys.argv[2]}" if turn else key)
        kept.flush()
"""


def test_several_processes_write_at_a_time(tmp_path):
    """Keys of their own, and keys that all of them write."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        for number in range(3)
    ]
    for writer in writers:
        writer.stdout.readline()
    for writer in writers:
        writer.communicate(b"\n")
        assert writer.returncode == 0
    wanted = KEYS + [f"{key} {number}" for number in range(3) for key in KEYS]
    with Journal(tmp_path, LAYOUT, shared=True) as kept:
        known, rows = read(kept, wanted)
    assert known == wanted
    np.testing.assert_array_equal(rows, expected(wanted))
    assert len(list(tmp_path.iterdir())) >= 90


def test_rows_of_another_key_are_noticed(tmp_path):
    """As when the metadata leads to the wrong page, whose checksum is right."""
    with Journal(tmp_path, LAYOUT) as kept:
        row = Row(path=KEYS[1], end=1.0, duration=1.0)
        kept.note(
            (Added(KEYS[0], "", 0, 1), ([row], vector(KEYS[1]))),
            (Finished(KEYS[0], "", 1, 1.0, False), None),
        )
        with pytest.raises(DamagedPart, match="its rows are others than it says"):
            list(kept.read(KEYS))
