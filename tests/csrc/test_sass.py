"""Bounds on what the compiler made of the kernels, on every architecture they are built for."""

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fusion_engine import _core

from .sass import Kernel, kernels_of

NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
ARCHITECTURES = [int(name[3:]) for name in _core.cuda_architectures() if name.startswith("sm_")]
ROWS_IN_FLIGHT = 8  # kRowsInFlight of csrc/layer_fusion_lane.h

pytestmark = pytest.mark.skipif(not ARCHITECTURES, reason="a build without CUDA kernels")


@dataclass(frozen=True)
class Bounds:
    """What a kernel may take; nothing may lie in local memory."""

    registers: int
    code: int  # instructions
    loops: dict[int, tuple[int, int]]  # bits of a load: how many loops, the longest one


BOUNDS = {
    # Three types of words of 16 bytes, each in four loops by time pool; narrower ones likewise.
    "fuse_kernel": Bounds(64, 24_000, {16: (8, 85), 32: (12, 100), 64: (12, 165), 128: (12, 300)}),
    "frames_kernel": Bounds(64, 6_000, {16: (2, 50), 32: (3, 40), 64: (3, 50), 128: (3, 65)}),
    "finalize_kernel": Bounds(24, 300, {}),
    "log_mel_kernel": Bounds(80, 2_750, {32: (1, 34)}),
}
# Turing has no maximum of two halves.
TURING = {
    "fuse_kernel": Bounds(64, 28_000, {16: (8, 125), 32: (12, 140), 64: (12, 240), 128: (12, 440)}),
    "frames_kernel": Bounds(64, 6_600, {16: (2, 80), 32: (3, 75), 64: (3, 110), 128: (3, 195)}),
}


def bounds_of(kernel: Kernel) -> Bounds:
    return (BOUNDS | TURING if kernel.architecture == 75 else BOUNDS)[kernel.name]


def problems(kernel: Kernel, bounds: Bounds) -> list[str]:
    """Which bounds a kernel breaks, in words."""
    found = []
    if kernel.registers > bounds.registers:
        found.append(f"{kernel.registers} registers, at most {bounds.registers}")
    local = sum(opcode.startswith(("LDL", "STL")) for opcode in kernel.opcodes)
    if kernel.stack or local:
        found.append(f"local memory: {kernel.stack} bytes of stack, {local} accesses")
    if len(kernel.opcodes) > bounds.code:
        found.append(f"{len(kernel.opcodes)} instructions, at most {bounds.code}")
    lengths: dict[int, list[int]] = {}
    for loop in kernel.loops:
        widths = loop.load_bits
        if len(widths) < ROWS_IN_FLIGHT:  # no loop over rows, or not one that its number counts
            continue
        if len(set(widths)) > 1:
            found.append(f"a loop with loads of {widths} bits, expected alike ones")
        lengths.setdefault(max(widths), []).append(len(loop.opcodes))
    numbers = {bits: len(each) for bits, each in sorted(lengths.items())}
    expected = {bits: number for bits, (number, _) in bounds.loops.items()}
    if numbers != expected:
        found.append(f"loops by bits of a load: {numbers}, expected {expected}")
    for bits, (_, longest) in bounds.loops.items():
        if max(lengths.get(bits, [0])) > longest:
            found.append(f"a loop of {max(lengths[bits])} instructions, at most {longest}")
    return found


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Kernel]:
    return kernels_of(Path(_core.__file__), tmp_path_factory.mktemp("cubins"))


def test_every_kernel_is_there(kernels: list[Kernel]) -> None:
    names = {(kernel.name, kernel.architecture) for kernel in kernels}
    assert names == {(name, architecture) for name in BOUNDS for architecture in ARCHITECTURES}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(kernels: list[Kernel], name: str, architecture: int) -> None:
    for kernel in kernels:
        if (kernel.name, kernel.architecture) == (name, architecture):
            assert not problems(kernel, bounds_of(kernel))


BAD = """
// Words of 12 bytes in two loads.
__global__ void mixed_kernel(const uint2* data, const unsigned* more, unsigned* out, int count) {
    unsigned sum = 0;
    #pragma unroll 1
    for (int i = 0; i < count; i += 8) {
        #pragma unroll
        for (int r = 0; r < 8; ++r) sum += data[i + r].x * data[i + r].y + more[i + r];
    }
    *out = sum;
}

// One row in flight.
__global__ void slow_kernel(const uint4* data, unsigned* out, int count) {
    unsigned sum = 0;
    #pragma unroll 1
    for (int i = 0; i < count; ++i) sum += data[i].x * data[i].y * data[i].z * data[i].w;
    *out = sum;
}

// An index that is known at run time only, so that the array lies in local memory.
__global__ void local_kernel(const int* data, int* out, int count) {
    int places[64] = {};
    for (int i = 0; i < count; ++i) places[data[i] % 64] += i;
    for (int i = 0; i < 64; ++i) out[i] = places[(i * count) % 64];
}
"""


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
def test_each_bound_can_be_broken(kernels: list[Kernel], tmp_path: Path) -> None:
    (tmp_path / "bad.cu").write_text(BAD)
    target = f"-arch=sm_{ARCHITECTURES[-1]}"
    subprocess.run([NVCC, target, "-cubin", "-o", "bad.cubin", "bad.cu"], cwd=tmp_path, check=True)
    bad = {kernel.name: kernel for kernel in kernels_of(tmp_path / "bad.cubin", tmp_path)}
    none = Bounds(64, 1_000, {})
    assert any("local memory" in said for said in problems(bad["local_kernel"], none))
    one = replace(none, loops={128: (1, 100)})
    assert any("expected alike" in said for said in problems(bad["mixed_kernel"], one))
    assert problems(bad["slow_kernel"], one) == ["loops by bits of a load: {}, expected {128: 1}"]

    good = next(kernel for kernel in kernels if kernel.name == "fuse_kernel")
    bounds = bounds_of(good)
    assert not problems(good, bounds)
    (said,) = problems(good, replace(bounds, registers=good.registers - 1))
    assert "registers" in said
    (said,) = problems(good, replace(bounds, code=len(good.opcodes) - 1))
    assert "instructions" in said
    (said,) = problems(good, replace(bounds, loops=bounds.loops | {128: (12, 100)}))
    assert "a loop of" in said
