"""Kernels that TensorRT for RTX compiled, kept from one process to the next."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from fusion_engine.engine.tensorrt.runtime_cache import RuntimeCache, runtime_cache_path

from ... import signals
from .double import GPU

RTX = {"rtx": True}


def tone(seconds):
    return signals.tone(seconds, 16_000, 0)


@pytest.fixture
def kept(tmp_path):
    """The files of compiled kernels."""
    return lambda: sorted(tmp_path.glob("cache/kernels/*.cache"))


def test_a_second_process_compiles_nothing(open_plan, kept):
    with open_plan("chunked", trt=RTX) as engine:
        engine.embed(tone(1.0))
        engine.embed(tone(2.0))
    assert open_plan.module.compiled == 2
    (path,) = kept()
    written = path.stat().st_mtime_ns
    with open_plan("chunked", trt=RTX) as engine:
        engine.embed(tone(1.0))
        engine.embed(tone(2.0))
    assert open_plan.module.compiled == 0
    # Nor is anything written, where there is nothing new.
    assert (kept(), path.stat().st_mtime_ns) == ([path], written)
    with open_plan("chunked", trt=RTX) as engine:
        engine.embed(tone(3.0))
    with open_plan("chunked", trt=RTX) as engine:
        for seconds in (1.0, 2.0, 3.0):
            engine.embed(tone(seconds))
    assert open_plan.module.compiled == 0


def test_contexts_share_what_was_compiled(open_plan):
    with open_plan("chunked", trt=RTX, contexts=2) as engine:
        # Another head has a slot and a context of its own, and the same shape.
        engine.embed(tone(1.0), head="mean")
        engine.embed(tone(1.0), head="max")
        assert open_plan.module.contexts == 2
    assert open_plan.module.compiled == 1


def test_tensorrt_itself_compiles_nothing(open_plan, kept):
    with open_plan("chunked") as engine:
        engine.embed(tone(1.0))
    assert kept() == []


@pytest.mark.parametrize("adds", [True, False])
def test_two_processes_write(open_plan, kept, adds):
    """The one that closes last has not read what the other wrote meanwhile."""
    trt = RTX | {"cache_adds": adds}
    first = open_plan("chunked", trt=trt)
    second = open_plan("chunked", trt=trt)
    for seconds in (1.0, 2.0):
        first.embed(tone(seconds))
    second.embed(tone(3.0))
    first.close()
    second.close()
    with open_plan("chunked", trt=trt) as third:
        for seconds in (1.0, 2.0, 3.0):
            third.embed(tone(seconds))
    # A library that does not add keeps the most of the two.
    assert open_plan.module.compiled == (0 if adds else 1)


def test_what_the_library_refuses_is_replaced(open_plan, kept, caplog):
    with open_plan("chunked", trt=RTX) as engine:
        engine.embed(tone(1.0))
    (path,) = kept()
    good = path.read_bytes()
    path.write_bytes(b"another version's")
    with caplog.at_level("INFO"), open_plan("chunked", trt=RTX) as engine:
        engine.embed(tone(1.0))
    assert f"{path}: not of this GPU, driver or library; it starts anew" in caplog.text
    assert open_plan.module.compiled == 1
    assert path.read_bytes() == good


@pytest.mark.parametrize("blocked", ["cache", "cache/kernels/NAME"])
def test_what_cannot_be_kept_is_said(open_plan, tmp_path, caplog, blocked, kept):
    """A file in place of the folder, and a folder in place of the file."""
    if blocked == "cache":
        (tmp_path / "cache").touch()
    else:
        with open_plan("chunked", trt=RTX) as engine:
            engine.embed(tone(1.0))
        (path,) = kept()
        path.unlink()
        path.mkdir()
    with open_plan("chunked", trt=RTX) as engine:
        engine.embed(tone(1.0))
    assert "the compiled kernels are not read: " in caplog.text
    assert "the compiled kernels were not kept: " in caplog.text


def test_what_the_name_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSION_ENGINE_CACHE", str(tmp_path))
    library, other = "tensorrt_rtx 1.7.1.116", "tensorrt_rtx 1.8.0.1"
    paths = [
        runtime_cache_path("a.plan", b"plan", library, GPU),
        runtime_cache_path("a.plan", b"plum", library, GPU),
        runtime_cache_path("a.plan", b"plan", other, GPU),
        runtime_cache_path("a.plan", b"plan", library, replace(GPU, name="NVIDIA L4")),
        runtime_cache_path("a.plan", b"plan", library, replace(GPU, compute_capability=(8, 9))),
    ]
    assert len(set(paths)) == len(paths)
    assert {path.parent for path in paths} == {tmp_path / "kernels"}
    assert all(path.name.startswith("a-") and path.suffix == ".cache" for path in paths)


def test_an_engine_that_ran_nothing_keeps_nothing(tmp_path):
    RuntimeCache(tmp_path / "a.cache").save()
    held = b"nothing"
    cache = SimpleNamespace(serialize=lambda: held, deserialize=lambda blob: True)
    used = []
    config = SimpleNamespace(create_runtime_cache=lambda: cache, set_runtime_cache=used.append)
    compiled = RuntimeCache(tmp_path / "a.cache")
    compiled.use(config)
    compiled.use(config)
    compiled.save()
    held = None  # as where the library fails
    compiled.save()
    assert used == [cache, cache]
    assert list(tmp_path.iterdir()) == []
