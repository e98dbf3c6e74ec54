"""What the compiler made of the kernels: registers, stack, code size and loops of a built module.

It is read by NVIDIA's ``cuobjdump`` and ``nvdisasm``, of the CUDA toolkit or of the packages
``nvidia-cuda-cuobjdump`` and ``nvidia-cuda-nvdisasm``.
"""

import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

FUNCTION = re.compile(r"^\s*\.section\s+\.text\.(\w+)")
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)")
LABEL = re.compile(r"^(\.L_x_\d+):")
TARGET = re.compile(r"\((\.L_x_\d+)\)")
USAGE = re.compile(r"Function (\w+):\s+REG:(\d+) STACK:(\d+)")


@dataclass(frozen=True)
class Loop:
    """A loop without another one in it, from its label to the last branch back."""

    opcodes: tuple[str, ...]

    @property
    def load_bits(self) -> list[int]:
        """Of each load from device memory."""
        return [_bits(opcode) for opcode in self.opcodes if opcode.startswith("LDG")]


@dataclass(frozen=True)
class Kernel:
    """One kernel's machine code for one architecture."""

    name: str  # without namespaces, arguments and template parameters
    architecture: int
    registers: int
    stack: int  # bytes of local memory, a thread
    opcodes: tuple[str, ...]
    loops: tuple[Loop, ...]


def tool(name: str) -> str:
    """The path of ``cuobjdump`` or ``nvdisasm``."""
    packages = Path(sysconfig.get_path("purelib")).glob(f"nvidia/cu*/bin/{name}")
    paths = [shutil.which(name), shutil.which(name, path="/usr/local/cuda/bin"), *packages]
    found = next((str(path) for path in paths if path), None)
    assert found, f"no {name}: install the CUDA toolkit, or pip install nvidia-cuda-{name}"
    return found


def kernels_of(module: Path, folder: Path) -> list[Kernel]:
    """A module's or a cubin's kernels for each architecture; ``folder`` is for what is unpacked."""
    cubins = [module]
    if module.suffix != ".cubin":
        command = [tool("cuobjdump"), "--extract-elf", "all", str(module.resolve())]
        subprocess.run(command, cwd=folder, capture_output=True, check=True)
        cubins = sorted(folder.glob("*.cubin"))
    return [kernel for cubin in cubins for kernel in _kernels_of(cubin)]


def _kernels_of(cubin: Path) -> list[Kernel]:
    usages = USAGE.findall(_output("cuobjdump", "--dump-resource-usage", str(cubin)))
    text = _output("nvdisasm", "-c", str(cubin))
    architecture = re.search(r"\.target\s+sm_(\d+)", text)
    assert architecture
    functions: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if match := FUNCTION.match(line):
            lines = functions.setdefault(match[1], [])
        lines.append(line)
    kernels = []
    for mangled, registers, stack in usages:
        name = re.search(r"\d([a-z_]+_kernel)", mangled)
        kernels.append(
            Kernel(
                name[1] if name else mangled,
                int(architecture[1]),
                int(registers),
                int(stack),
                *_code(functions[mangled]),
            )
        )
    return kernels


def _output(name: str, *arguments: str) -> str:
    command = [tool(name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _code(lines: list[str]) -> tuple[tuple[str, ...], tuple[Loop, ...]]:
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    ends: dict[int, int] = {}  # of loops, by where they begin
    for line in lines:
        if label := LABEL.match(line):
            labels[label[1]] = len(opcodes)
        elif instruction := INSTRUCTION.match(line):
            target = TARGET.search(instruction[2]) if instruction[1].startswith("BRA") else None
            if target and target[1] in labels:
                ends[labels[target[1]]] = len(opcodes)
            opcodes.append(instruction[1])
    # A kernel ends in a branch to itself and no-operations.
    while opcodes and opcodes[-1].startswith(("NOP", "BRA")):
        opcodes.pop()
    loops = [
        Loop(tuple(opcodes[begin : end + 1]))
        for begin, end in ends.items()
        if end < len(opcodes) and not any(begin < other <= end for other in ends)
    ]
    return tuple(opcodes), tuple(loops)


def _bits(opcode: str) -> int:
    widths = re.findall(r"\.[US]?(8|16|64|128|256)\b", opcode)
    return int(widths[-1]) if widths else 32
