"""Finding and loading TensorRT, and hearing what it says."""

import logging
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fusion_engine import BackendError
from fusion_engine.engine.tensorrt import import_tensorrt, library_for, targets
from fusion_engine.engine.tensorrt import library as library_module
from fusion_engine.engine.tensorrt.targets import plan_targets

pytestmark = pytest.mark.rtx


def test_what_is_installed_is_chosen_and_said(caplog, monkeypatch):
    monkeypatch.setattr(library_module, "_loaded", {})
    with caplog.at_level(logging.INFO):
        library = import_tensorrt()
    import tensorrt_rtx

    assert (library.runtime, library.version) == ("tensorrt_rtx", tensorrt_rtx.__version__)
    assert library.is_rtx
    assert str(library) == f"tensorrt_rtx {tensorrt_rtx.__version__}"
    assert caplog.messages == [
        "runtime: tensorrt_rtx, the only one installed",
        f"loaded {library}",
    ]


def test_one_library_and_one_logger_for_all_threads(library):
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(import_tensorrt("tensorrt_rtx")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one is library and one.logger is library.logger for one in got)


def test_which_of_two(monkeypatch, caplog):
    monkeypatch.setattr(library_module, "installed_runtimes", lambda: ["tensorrt", "tensorrt_rtx"])
    with caplog.at_level(logging.INFO), pytest.raises(BackendError, match="tensorrt cannot be"):
        import_tensorrt()
    assert "runtime: tensorrt, preferred to tensorrt_rtx" in caplog.text


def test_the_gpu_decides_which_of_two(monkeypatch, caplog, both, gpu, h200, library):
    loaded = []
    monkeypatch.setattr(targets, "import_tensorrt", loaded.append)
    with caplog.at_level(logging.INFO):
        library_for(gpu)
        library_for(h200)
        library_for(gpu, "tensorrt_rtx")
        library_for(None, "tensorrt_rtx")
    assert loaded == ["tensorrt", "tensorrt", "tensorrt_rtx", "tensorrt_rtx"]
    assert caplog.messages == [
        "runtime: tensorrt, preferred to tensorrt_rtx",
        "runtime: tensorrt, since tensorrt_rtx does not serve this GPU",
    ]
    with pytest.raises(BackendError) as error:
        library_for(h200, "tensorrt_rtx")
    assert str(error.value) == (
        "tensorrt_rtx runs on compute capability 7.5, 8.0, 8.6, 8.9, 12.0 and 12.1, and this is "
        "NVIDIA H200 (SM 9.0). Its library is tensorrt, which is installed"
    )


@pytest.mark.parametrize("runtime", [None, "tensorrt_rtx"])
def test_only_the_wrong_one_is_installed(h200, runtime):
    with pytest.raises(BackendError, match=r"this is NVIDIA H200 \(SM 9\.0\).* tensorrt: pip in"):
        library_for(h200, runtime)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)])
def test_what_rtx_serves(gpu, library, capability):
    assert library_for(replace(gpu, compute_capability=capability)) is library


@pytest.mark.parametrize("capability", [(7, 0), (8, 7), (9, 0), (10, 0), (10, 3), (13, 0)])
def test_what_rtx_does_not_serve(gpu, capability):
    with pytest.raises(BackendError, match="tensorrt_rtx runs on compute capability"):
        library_for(replace(gpu, compute_capability=capability))


def test_the_targets_are_the_library_s(library):
    known = {targets.target_name(one) for one in targets.RTX_TARGETS}
    assert known == set(library.module.ComputeCapability.__members__) - {"NONE", "CURRENT"}


def test_what_a_plan_is_built_for(library, gpu, h200):
    turing = replace(gpu, name="Tesla T4", compute_capability=(7, 5))
    default = ("8.0", "8.6", "8.9", "12.0", "12.1")
    assert plan_targets(library, None, None) == plan_targets(library, gpu, None) == default
    assert plan_targets(library, turing, None) == ("7.5",)
    # The GPU that is here does not matter to those that were asked for.
    assert plan_targets(library, h200, ("12.0", "8.6")) == ("8.6", "12.0")
    assert plan_targets(replace(library, runtime="tensorrt"), h200, None) == ("9.0",)


def test_a_version_with_fewer_targets(library):
    known = dict.fromkeys(("SM75", "SM80", "SM86", "SM89", "SM120"), 0)
    module = SimpleNamespace(ComputeCapability=SimpleNamespace(__members__=known))
    older = replace(library, module=module, version="1.4.0.76")
    assert plan_targets(older, None, None) == ("8.0", "8.6", "8.9", "12.0")
    with pytest.raises(BackendError, match=r"1\.4\.0\.76 has no target for .* 12\.1\. Upgrade it"):
        plan_targets(older, None, ("8.9", "12.1"))


def test_none_is_installed(monkeypatch):
    monkeypatch.setattr(library_module, "installed_runtimes", list)
    with pytest.raises(BackendError) as error:
        import_tensorrt()
    for extra in ("gpu", "rtx"):
        assert f'pip install ".[{extra}]"' in str(error.value)


def test_one_that_is_not_installed():
    message = r'tensorrt cannot be imported \(.*\)\. Install it: pip install "\.\[gpu\]"'
    with pytest.raises(BackendError, match=message):
        import_tensorrt("tensorrt")


def test_one_that_is_too_old(monkeypatch, library):
    monkeypatch.setattr(library_module, "_loaded", {})
    monkeypatch.setattr(library.module, "__version__", "1.3.0.5")
    with pytest.raises(BackendError, match=r"1\.3\.0\.5 is too old, expected 1\.4 or newer.*-U"):
        import_tensorrt("tensorrt_rtx")


def test_one_that_does_not_exist():
    with pytest.raises(ValueError, match="runtime is 'trt', expected one of"):
        import_tensorrt("trt")


def fail(library):
    """A call that TensorRT reports an error of, and answers with None."""
    runtime = library.module.Runtime(library.logger)
    assert runtime.deserialize_cuda_engine(b"no plan" * 20) is None


def test_errors_are_heard_or_logged(library, caplog):
    with library.listen() as outer, library.listen() as inner:
        fail(library)
    assert "incompatible serialization version" in inner.errors[0]
    assert inner.reason("nothing").count("; ") == len(set(inner.errors)) - 1
    assert list(outer.errors) == list(inner.errors)
    assert caplog.messages == []  # whoever listens raises them
    fail(library)
    assert "tensorrt_rtx: " in caplog.text
    assert caplog.records[0].levelno == logging.ERROR
    with library.listen() as heard:
        pass
    assert heard.reason("nothing") == "nothing"


def test_reading_plans_loads_no_library():
    program = """
import sys
from fusion_engine.engine.tensorrt import build, preflight, read_plan
print(*(name for name in ("tensorrt", "tensorrt_rtx", "cuda", "onnx", "torch", "onnxruntime")
        if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("\n", "")
