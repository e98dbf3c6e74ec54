import pytest

from fusion_engine import _instructions
from fusion_engine._instructions import dot_products, instruction_sets, saturates

# Lines of /proc/cpuinfo: what the CPU has, whether it multiplies 8 bits fast, whether it saturates.
MACHINES = {
    "haswell": ("flags\t\t: fpu sse2 avx avx2 fma", ("AVX2",), False, True),
    "cascade lake": (
        "flags\t\t: avx2 avx512f avx512bw avx512_vnni",
        ("AVX2", "AVX-512", "VNNI"),
        True,
        False,
    ),
    "alder lake": ("flags\t\t: avx2 avx_vnni", ("AVX2", "VNNI"), True, False),
    "neoverse": ("Features\t: fp asimd asimddp i8mm", ("dot product", "I8MM"), True, False),
    "no Linux": ("", (), True, True),
}


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine(tmp_path, monkeypatch, name):
    line, sets, fast, saturating = MACHINES[name]
    path = tmp_path / "cpuinfo"
    if line:
        path.write_text(f"processor\t: 0\n{line}\nprocessor\t: 1\n{line}\n")
    monkeypatch.setattr(_instructions, "_CPUINFO", path)
    machine = "aarch64" if name == "neoverse" else "x86_64"
    monkeypatch.setattr("platform.machine", lambda: machine)
    instruction_sets.cache_clear()
    assert (instruction_sets(), dot_products(), saturates()) == (sets, fast, saturating)
    instruction_sets.cache_clear()
