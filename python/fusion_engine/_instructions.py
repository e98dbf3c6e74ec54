"""Which of the CPU's instruction sets matter here."""

import platform
import re
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# By Linux's names of the flags; any of them.
_SETS = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AVX-512 BF16": ("avx512_bf16",),
    "AMX INT8": ("amx_int8",),
    "AMX BF16": ("amx_bf16",),
    "dot product": ("asimddp",),
    "I8MM": ("i8mm",),
}


@cache
def instruction_sets() -> tuple[str, ...]:
    """Names of the vector instruction sets that this CPU has; empty where Linux does not say."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return tuple(name for name, any_of in _SETS.items() if flags.intersection(any_of))


def dot_products() -> bool:
    """Whether the CPU multiplies 8 bits faster than FP32; true where Linux does not say."""
    known = instruction_sets()
    return not known or bool({"VNNI", "AMX INT8", "dot product", "I8MM"}.intersection(known))


def saturates() -> bool:
    """Whether the CPU's product of UINT8 and INT8 saturates: x86's does without VNNI."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    return x86 and "VNNI" not in instruction_sets()
