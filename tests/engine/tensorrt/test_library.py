"""Finding and loading TensorRT, and hearing what it says."""

import logging
import subprocess
import sys
import threading

import pytest

from fusion_engine import BackendError
from fusion_engine.engine.tensorrt import import_tensorrt
from fusion_engine.engine.tensorrt import library as library_module

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
