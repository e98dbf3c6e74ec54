"""Threads of an engine: how many, what idle ones do, and where they cannot be started."""

import subprocess
import sys

import numpy as np
import onnx
import pytest

import fusion_engine as fe
from fusion_engine.engine import engine as engine_module

from .cuda.artifacts import CHUNKED, write_artifact


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_artifact(tmp_path_factory.mktemp("threads") / "chunked.onnx", CHUNKED)


def options(engine):
    return engine._runner._network._onnx.session.get_session_options()


def test_one_for_every_cpu_that_may_be_used(path, monkeypatch):
    monkeypatch.setattr(engine_module, "usable_cpus", lambda: 3)
    assert options(fe.Engine(path, device="cpu")).intra_op_num_threads == 3
    assert options(fe.Engine(path, device="cpu", threads=2)).intra_op_num_threads == 2


@pytest.mark.parametrize("spinning", [None, False, True])
def test_idle_threads_spin_only_when_asked(path, spinning):
    asked = {} if spinning is None else {"spinning": spinning}
    engine = fe.Engine(path, device="cpu", threads=2, **asked)
    for pool in ("intra_op", "inter_op"):
        entry = options(engine).get_session_config_entry(f"session.{pool}.allow_spinning")
        assert entry == ("1" if spinning else "0")


def test_bits_do_not_depend_on_them(path):
    clips = np.random.default_rng(0).normal(0, 0.1, (3, 16_000)).astype(np.float32)
    one = fe.Engine(path, device="cpu", threads=1).embed(clips)
    assert np.array_equal(fe.Engine(path, device="cpu", threads=9).embed(clips), one)
    spinning = fe.Engine(path, device="cpu", threads=2, spinning=True)
    assert np.array_equal(spinning.embed(clips), one)


@pytest.mark.parametrize("threads", [1025, 10**6, 10**30])
def test_a_bound(path, threads):
    with pytest.raises(ValueError, match=f"threads is {threads}, expected at most 1024"):
        fe.Engine(path, threads=threads)


def limited(path, megabytes, *, threads):
    """What opening and one call say with that much address space left, in a process of its own."""
    program = """
import re, resource, sys
from pathlib import Path
import numpy as np, onnx, onnxruntime
import fusion_engine as fe
from fusion_engine import _core
fe.Engine
size = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
limit = size + int(sys.argv[2]) * 10**6
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    engine = fe.Engine(sys.argv[1], device="cpu", threads=int(sys.argv[3]))
    engine.embed(np.zeros(160_000, np.float32))
    print("it works")
except Exception as error:
    print(type(error).__name__, error)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(path), str(megabytes), str(threads)],
        capture_output=True,
        text=True,
        timeout=60,  # it hung
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_threads_that_cannot_be_started(path):
    said = limited(path, 100, threads=300)
    assert said.startswith("BackendError 300 threads cannot be started, only ")
    assert "threads=" in said


def test_memory_that_ran_out_is_not_a_damaged_artifact(tmp_path):
    """At any limit: it opens, or says that memory is missing."""
    model = onnx.load(write_artifact(tmp_path / "a.onnx", CHUNKED))
    ballast = onnx.numpy_helper.from_array(np.ones(10**7, np.float32), "ballast")
    model.graph.initializer.append(ballast)
    node = onnx.helper.make_node("Slice", ["ballast", "zero", "one"], ["slice"])
    bias = onnx.helper.make_node("Add", ["b1", "slice"], ["b1+"])
    for name, value in (("zero", 0), ("one", 1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    model.graph.node[0].input[2] = "b1+"
    model.graph.node.insert(0, node)
    model.graph.node.insert(1, bias)
    path = tmp_path / "ballast.onnx"
    onnx.save(model, path)
    said = [limited(path, megabytes, threads=1) for megabytes in (5, 20, 45, 70, 100, 400)]
    print(*said)
    assert said[-1] == "it works\n"
    assert all(line == "it works\n" or line.startswith("BackendError") for line in said)
    assert said[1].count("not enough memory") == 1
