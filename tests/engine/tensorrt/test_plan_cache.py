"""Plans that are built on first use and kept."""

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from fusion_engine import BackendError
from fusion_engine.engine.tensorrt import cached_plan, plan_cache, read_plan, targets
from fusion_engine.engine.tensorrt.sidecar import sidecar_path

pytestmark = pytest.mark.rtx


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FUSION_ENGINE_CACHE", str(folder))
    return folder / "plans"


def plan_of(artifact, gpu, **options):
    return cached_plan(artifact, gpu=gpu, **({"precision": "bf16"} | options))


def test_it_is_built_once(cnn14_artifact, gpu, cache, caplog):
    with caplog.at_level(logging.INFO):
        path = plan_of(cnn14_artifact, gpu)
        changed = path.stat().st_mtime_ns
        assert plan_of(cnn14_artifact, gpu) == path
    assert path.stat().st_mtime_ns == changed
    assert path.parent == cache
    assert path.name.startswith("cnn14_1-")
    assert read_plan(path).spec.precision == "bf16"
    assert caplog.text.count("the first run of this artifact here") == 1
    assert f"using the cached plan {path}" in caplog.text


def test_what_the_key_holds(cnn14_artifact, gpu, tmp_path):
    other = tmp_path / "other.onnx"
    data = cnn14_artifact.read_bytes()
    other.write_bytes(data.replace(b'"random:0"', b'"random:1"'))
    paths = [
        plan_of(cnn14_artifact, gpu),
        plan_of(other, gpu),
        plan_of(cnn14_artifact, gpu, precision="fp32"),
        plan_of(cnn14_artifact, gpu, batch=(1, 1, 1)),
        plan_of(cnn14_artifact, gpu, seconds=(1, 2, 3)),
        plan_of(cnn14_artifact, gpu, effort=1),
        plan_of(cnn14_artifact, replace(gpu, name="NVIDIA A10", compute_capability=(8, 6))),
    ]
    assert len(set(paths)) == len(paths)
    # The same options in other words.
    assert plan_of(cnn14_artifact, gpu, frames=(101, 201, 301)) == paths[4]


def test_the_key_holds_where_and_by_what_it_is_built(cnn14_artifact, gpu, library, monkeypatch):
    built = []
    monkeypatch.setattr(plan_cache, "build", lambda *args, **options: built.append(options))
    paths = [plan_of(cnn14_artifact, gpu)]
    for name, value in (
        ("library_for", lambda *_: replace(library, version="9.9")),
        ("this_system", lambda: "win32-AMD64"),
        ("__version__", "9.9"),
    ):
        with monkeypatch.context() as change:
            change.setattr(plan_cache, name, value)
            paths.append(plan_of(cnn14_artifact, gpu))
    assert len(set(paths)) == len(paths)
    assert [options["gpu"] for options in built] == [gpu] * len(paths)


def test_a_gpu_that_what_is_installed_does_not_serve(cnn14_artifact, h200, cache):
    with pytest.raises(BackendError, match="Its library is tensorrt: pip install"):
        plan_of(cnn14_artifact, h200)
    assert not cache.exists()


def test_the_gpu_chooses_the_library(cnn14_artifact, h200, both, library, monkeypatch):
    built = []
    monkeypatch.setattr(plan_cache, "build", lambda *args, **options: built.append(options))
    monkeypatch.setattr(targets, "import_tensorrt", lambda name: replace(library, runtime=name))
    plan_of(cnn14_artifact, h200)
    assert [options["runtime"] for options in built] == ["tensorrt"]


def test_a_gpu_that_plans_are_not_portable_to(cnn14_artifact, gpu):
    turing = replace(gpu, name="Tesla T4", compute_capability=(7, 5))
    path = plan_of(cnn14_artifact, turing, precision="fp16")
    assert read_plan(path).sidecar.targets == ("7.5",)


@pytest.mark.parametrize("damage", ["bytes", "no sidecar"])
def test_a_damaged_one_is_built_again(cnn14_artifact, gpu, caplog, damage):
    path = plan_of(cnn14_artifact, gpu)
    if damage == "bytes":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        sidecar_path(path).unlink()
    assert plan_of(cnn14_artifact, gpu) == path
    assert "built again" in caplog.text
    assert read_plan(path).sidecar is not None


def test_many_threads(cnn14_artifact, gpu, caplog):
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: plan_of(cnn14_artifact, gpu), range(4)))
    assert len(paths) == 1
    assert caplog.text.count("the first run of this artifact here") == 1
    assert caplog.text.count("using the cached plan") == 3


def test_two_processes(cnn14_artifact, cache):
    program = """
import logging, sys
from fusion_engine.engine.devices import GpuInfo
from fusion_engine.engine.tensorrt import cached_plan

logging.basicConfig(level=logging.INFO, format="%(message)s")
gpu = GpuInfo(0, "NVIDIA L4", (8, 9), 1 << 30, 58, "13.0")
print(cached_plan(sys.argv[1], gpu=gpu, precision="bf16"))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, cnn14_artifact],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len({stdout for stdout, _ in outputs}) == 1
    said = "".join(stderr for _, stderr in outputs)
    assert said.count("the first run of this artifact here") == 1
    assert said.count("using the cached plan") == 1
    plan = Path(outputs[0][0].strip())
    names = [plan.name, f"{plan.name}.json", f"{plan.name}.lock"]
    assert sorted(path.name for path in cache.iterdir()) == names


def test_a_cache_that_cannot_be_used(cnn14_artifact, gpu, cache):
    cache.parent.touch()
    with pytest.raises(BackendError, match="set FUSION_ENGINE_CACHE to a folder"):
        plan_of(cnn14_artifact, gpu)


def test_a_failed_build_leaves_nothing(cnn14_artifact, gpu, cache, monkeypatch):
    from fusion_engine.engine.tensorrt import builder

    def fail(*args, **kwargs):
        raise BackendError("no")

    monkeypatch.setattr(builder, "serialize", fail)
    with pytest.raises(BackendError, match=r"cnn14_1\.onnx: no"):
        plan_of(cnn14_artifact, gpu)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
