"""Bank conflicts and sectors per load as exact numbers, from the kernels' own index functions."""

import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
CXX = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
SECTOR = 32  # bytes of device memory that are read together
BANKS = 32  # of 4 bytes

Accesses = dict[str, list[tuple[int, list[int]]]]  # bytes an access, and a warp's offsets


@pytest.fixture(scope="module")
def accesses(tmp_path_factory: pytest.TempPathFactory) -> Accesses:
    program = tmp_path_factory.mktemp("access_patterns") / "access_patterns"
    sources = [Path(__file__).with_name("access_patterns.cpp")]
    sources += [CSRC / "layer_fusion.cpp", CSRC / "layer_fusion_grid.cpp"]
    subprocess.run([CXX, "-std=c++20", "-I", CSRC, *sources, "-o", program], check=True)
    text = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    found = defaultdict(list)
    for line in text.splitlines():
        name, numbers = line.split(": ")
        size, *offsets = map(int, numbers.split())
        found[name].append((size, offsets))
    return found


def conflicts(size: int, offsets: list[int]) -> int:
    """How often a warp's access waits for its banks: 128 bytes are served at once."""
    lanes = BANKS * 4 // size
    excess = 0
    for first in range(0, len(offsets), lanes):
        words = defaultdict(set)
        for offset in offsets[first : first + lanes]:
            for word in range(offset // 4, (offset + size) // 4):
                words[word % BANKS].add(word)
        excess += max(map(len, words.values())) - 1
    return excess


# 64 points, which no preset has: two frames of a half warp meet in the same banks.
FFT_CONFLICTS = {64: 48, 128: 0, 256: 0, 512: 0, 1024: 0}


@pytest.mark.parametrize("points", FFT_CONFLICTS)
def test_bank_conflicts_of_the_fft_passes(accesses: Accesses, points: int) -> None:
    passes = accesses[f"{points} points"]
    assert passes
    assert sum(conflicts(*access) for access in passes) == FFT_CONFLICTS[points]


def test_the_sums_have_no_bank_conflict(accesses: Accesses) -> None:
    assert len(accesses["sums"]) == 8 * 256 // 32
    assert sum(conflicts(*access) for access in accesses["sums"]) == 0


def test_a_conflict_is_seen() -> None:
    assert conflicts(8, [256 * lane for lane in range(32)]) == 30
    assert conflicts(8, [16 * lane for lane in range(32)]) == 2


# Sectors of each warp's load, and the part of their bytes that it asks for. The rest are the next
# rows of the same items.
SECTORS = {
    "NHWC float16, 1 lane": (16, 1.0),
    "NHWC float16, 32 lanes": (16, 1.0),
    "NHWC float32, 1 lane": (16, 1.0),
    "NHWC float32, 32 lanes": (16, 1.0),
    "NCHW float16, 32 frequencies, 1 lane": (16, 1.0),
    "NCHW float16, 32 frequencies, 32 lanes": (16, 1.0),
    "NCHW float16, 8 frequencies, 1 lane": (32, 0.5),
    "NCHW float16, 8 frequencies, 32 lanes": (32, 0.5),
    "NCHW float32, 2 frequencies, 1 lane": (32, 0.25),
    "NCHW float32, 2 frequencies, 32 lanes": (8, 1.0),
}


@pytest.mark.parametrize("name", SECTORS)
def test_sectors(accesses: Accesses, name: str) -> None:
    for size, offsets in accesses[name]:
        sectors = {offset // SECTOR for offset in offsets}
        used = len(set(offsets)) * size / (len(sectors) * SECTOR)
        assert (len(sectors), used) == SECTORS[name]
