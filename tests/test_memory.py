from pathlib import Path

import pytest

from fusion_engine import _memory
from fusion_engine._memory import available_memory


def test_it_is_what_the_system_says():
    (line,) = (s for s in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in s)
    assert 0 <= available_memory() <= 1.2 * 1024 * int(line.split()[1])


@pytest.mark.parametrize(
    ("most", "used", "expected"),
    [
        (None, None, 4096_000),
        ("max", "1000", 4096_000),
        ("1000000", "400000", 600_000),
        ("1000000", "2000000", 0),
        ("99999999999", "1", 4096_000),
    ],
)
def test_a_container_has_less(most, used, expected, tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:   4000 kB\n")
    for name, value in (("max", most), ("current", used)):
        if value is not None:
            (tmp_path / f"memory.{name}").write_text(f"{value}\n")
    monkeypatch.setattr(_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(_memory, "_GROUP", tmp_path)
    assert available_memory() == expected


@pytest.mark.parametrize("text", ["", "MemAvailable: many kB\n", "no colon\n"])
def test_a_system_that_says_nothing(text, tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr(_memory, "_MEMINFO", tmp_path / "meminfo")
    assert available_memory() is None
    monkeypatch.setattr(_memory, "_MEMINFO", tmp_path / "none")
    assert available_memory() is None
