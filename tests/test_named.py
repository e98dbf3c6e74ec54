"""Names in place of paths, with CNN14 cut after its first block as a preset of its own."""

import functools
import json
import logging
import pickle
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fusion_engine as fe
from fusion_engine import export as exporters
from fusion_engine import named, parity, weights
from fusion_engine._cache import locked
from fusion_engine.artifact import file_sha256, read_report, report_path
from fusion_engine.export import PRESETS, Preset, backbones, resolve
from fusion_engine.named import EXPORT_STEPS, is_name, named_artifact
from fusion_engine.parity import certificate

from . import signals

pytestmark = pytest.mark.heavy

SMALL = Preset(name="small", model="cnn14_16k", layers=(1,))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FUSION_ENGINE_CACHE", str(folder))
    monkeypatch.delenv("FUSION_ENGINE_OFFLINE", raising=False)
    monkeypatch.setattr(exporters, "PRESETS", {**PRESETS, "small": SMALL})
    return folder


@pytest.fixture(scope="session", autouse=True)
def _random_numbers_once():
    """They are of the whole model, and take as long as all the rest of these small exports."""
    model = type(resolve("cnn14"))
    with pytest.MonkeyPatch.context() as change:
        change.setattr(model, "random_state", functools.cache(model.random_state))
        yield


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A cache that holds the small preset with random weights."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as change:
        change.setenv("FUSION_ENGINE_CACHE", str(folder))
        change.setattr(exporters, "PRESETS", {"small": SMALL})
        named_artifact("small", weights="random:0")
    return folder


@pytest.fixture
def cached(exported, cache):
    """The small preset's artifact in this test's cache."""
    shutil.copytree(exported, cache)
    (path,) = (cache / "artifacts").glob("*.onnx")
    return path


@pytest.fixture
def copied(cnn14_artifact, monkeypatch):
    """In place of an export, its result: what comes after it is tested."""

    def export(model, path, *, layers, weights, progress):
        assert (model, layers, weights) == ("cnn14_16k", (1,), "random:0")
        for of in (Path, report_path):
            shutil.copy(of(cnn14_artifact), of(path))

    monkeypatch.setattr(exporters, "export", export)


def left_in(cache):
    return [path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize(
    "path", ["a.onnx", "no.plan", "a.bin", "./small", "small/", "a/small", "/small", "..", ""]
)
def test_a_path_is_returned_unread(path, cache):
    assert not is_name(path)
    assert named_artifact(path) == Path(path)
    assert named_artifact(Path("a.onnx")) == Path("a.onnx")
    assert not cache.exists()


def test_a_file_wins_over_a_name_and_a_folder_does_not(cached):
    Path("small").mkdir()
    assert named_artifact("small", weights="random:0") == cached
    Path("other").mkdir()
    assert named_artifact("other") == Path("other")
    Path("small").rmdir()
    Path("small").write_bytes(b"")
    assert named_artifact("small", weights="random:0") == Path("small")


def test_it_is_exported_once_and_certified(cache, caplog, capfd):
    steps = []
    with caplog.at_level(logging.INFO, "fusion_engine.named"):
        path = named_artifact("small", weights="random:0", progress=steps.append)
    assert path.is_absolute()
    assert path.parent == cache / "artifacts"
    assert path.name.startswith("cnn14_16k_1-")
    assert len(steps) == EXPORT_STEPS
    first, *_, last = caplog.messages
    assert first == f"exporting small into {path}"
    assert last.startswith("the export of small took ")
    proof = read_report(path)["parity"]["fp32"]
    assert proof["passed"] is True
    assert proof["artifact_sha256"] == file_sha256(path)
    assert len(proof["clips"]) == 2
    assert capfd.readouterr() == ("", "")


def test_the_cache_needs_neither_torch_nor_a_lock(cached, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    Path(f"{cached}.lock").unlink()
    status = cached.stat()
    assert named_artifact("small", weights="random:0", progress=pytest.fail) == cached
    assert cached.stat().st_mtime_ns == status.st_mtime_ns
    assert not Path(f"{cached}.lock").exists()


def test_it_is_what_an_export_by_hand_gives(cached, cnn14_artifact):
    clip = signals.tone(1.3, 16_000)
    by_hand = fe.Engine(cnn14_artifact)
    np.testing.assert_array_equal(fe.Engine(cached).embed(clip), by_hand.embed(clip))


@pytest.mark.heavy
def test_an_engine_opens_a_name(cache, cnn14_artifact, monkeypatch):
    """With pretrained weights: here those random ones, as a release that was downloaded."""
    import torch

    cache.mkdir()
    downloaded = cache / "release.pth"
    torch.save({"model": resolve("cnn14").random_state(0)}, downloaded)
    release = weights.WeightsFile(
        name=downloaded.name,
        url="http://127.0.0.1:9/release.pth",
        checksum=f"sha256:{file_sha256(downloaded)}",
    )
    monkeypatch.setattr(weights, "WEIGHTS", {"cnn14_16k": release})
    engine = fe.Engine("small")
    (path,) = (cache / "artifacts").glob("*.onnx")
    assert repr(str(path)) in repr(engine)
    assert engine.spec.weights.source == "pretrained"
    clip = signals.tone(1.0, 16_000)
    expected = fe.Engine(cnn14_artifact).embed(clip)
    np.testing.assert_array_equal(engine.embed(clip), expected)
    downloaded.unlink()
    assert fe.Engine("small").spec == engine.spec
    # The process that reads it need not know the name.
    monkeypatch.setattr(exporters, "PRESETS", {})
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(engine)).embed(clip), expected)


def test_a_wrong_argument_is_refused_before_the_export(cache):
    with pytest.raises(ValueError, match="threads is 0"):
        fe.Engine("small", threads=0)
    assert not cache.exists()


def key_of(name="small", weights="random:0"):
    return named._wanted(name, weights).path()


def test_names_that_mean_the_same_share_one_artifact():
    assert key_of("cnn14") == key_of("cnn14_16k") == key_of("cnn14-fusion")
    assert key_of("ast") == key_of("ast-fusion")
    names = [*dict.fromkeys(model.name for model in backbones().values()), "small"]
    names += [name for name in PRESETS if name.endswith("-last")]
    assert len({key_of(name) for name in names}) == len(names)


def test_what_the_key_holds(tmp_path, monkeypatch):
    checkpoint = tmp_path / "tuned.pth"
    checkpoint.write_bytes(b"weights")
    paths = [key_of(), key_of(weights="random:1"), key_of(weights="pretrained")]
    paths.append(key_of(weights=checkpoint))
    shutil.copy(checkpoint, tmp_path / "here" / "tuned.pth")
    assert key_of(weights="tuned.pth") == paths[-1]
    checkpoint.write_bytes(checkpoint.read_bytes() + b"\0")
    paths.append(key_of(weights=checkpoint))
    for module, name, value in (
        (named, "__version__", "9.9"),
        (named, "FORMAT_VERSION", 99),
        (exporters, "PRESETS", {"small": replace(SMALL, layers=(1, 2))}),
    ):
        with monkeypatch.context() as change:
            change.setattr(module, name, value)
            paths.append(key_of())
    release = replace(weights.WEIGHTS["cnn14_16k"], checksum="md5:00")
    monkeypatch.setattr(weights, "WEIGHTS", {"cnn14_16k": release})
    paths.append(key_of(weights="pretrained"))
    assert len(set(paths)) == len(paths)


def test_a_checkpoint_goes_into_the_export_and_the_certificate(tmp_path, monkeypatch):
    checkpoint = tmp_path / "tuned.pth"
    checkpoint.write_bytes(b"weights")
    given = []

    def certify(*_, weights, **__):
        given.append(weights)
        raise fe.ExportError("far enough")

    monkeypatch.setattr(exporters, "export", lambda *_, weights, **__: given.append(weights))
    monkeypatch.setattr(parity, "certify", certify)
    with pytest.raises(fe.ExportError, match="far enough"):
        named_artifact("small", weights=checkpoint)
    assert given == [checkpoint, checkpoint]


def test_a_checkpoint_in_a_folder_of_transformers(tmp_path):
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"one")
    first = key_of("ast", folder)
    (folder / "model.safetensors").write_bytes(b"two")
    assert key_of("ast", folder) != first
    with pytest.raises(fe.ExportError, match="got a folder"):
        key_of("small", folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [("no.pth", "weights no.pth: No such file"), ("random:x", "a non-negative integer")],
)
def test_weights_that_are_none(cache, given, message):
    with pytest.raises(fe.ExportError, match=message):
        named_artifact("small", weights=given)
    assert left_in(cache) == []


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def fail_certificate(path):
    report = json.loads(report_path(path).read_text())
    report["parity"]["fp32"]["passed"] = False
    report_path(path).write_text(json.dumps(report))


@pytest.mark.parametrize(
    "damage", [flip, fail_certificate, lambda path: report_path(path).write_text("{")]
)
def test_a_damaged_one_is_exported_again(cached, copied, caplog, damage):
    whole = file_sha256(cached)
    damage(cached)
    assert named_artifact("small", weights="random:0") == cached
    assert file_sha256(cached) == whole
    assert read_report(cached)["parity"]["fp32"]["passed"] is True
    assert f"{cached} is damaged" in caplog.text


def test_a_failed_certificate_leaves_nothing(cache, copied, monkeypatch):
    bounds = dict.fromkeys(certificate.FP32_BOUNDS, 0.0)
    monkeypatch.setattr(certificate, "FP32_BOUNDS", bounds)
    message = r"small failed its certificate .*embedding \(end_to_end\) is off by .*0\.0e\+00"
    with pytest.raises(fe.ExportError, match=message):
        named_artifact("small", weights="random:0")
    assert left_in(cache) == []


def test_an_interrupted_one_leaves_nothing(cache, copied):
    def interrupt(step):
        if step.startswith("comparing"):
            assert len(left_in(cache)) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        named_artifact("small", weights="random:0", progress=interrupt)
    assert left_in(cache) == []


# With copies in place of an export and its certificate, which would take most of the time.
PROGRAM = """
import logging, shutil, sys
from fusion_engine import export, named
from fusion_engine.artifact import report_path
def make(wanted, path, progress):
    print("made", flush=True)
    shutil.copy(report_path(sys.argv[1]), report_path(path))
    shutil.copy(sys.argv[1], path)
named._make = make
logging.basicConfig(level=logging.INFO)
export.PRESETS = {"small": export.Preset(name="small", model="cnn14_16k", layers=(1,))}
print(named.named_artifact("small", weights="random:0"))
"""


def test_two_processes_at_once_export_once(cached, tmp_path):
    source = tmp_path / "source.onnx"
    cached.rename(source)
    report_path(cached).rename(report_path(source))
    with locked(cached, "test"):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, source],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for process in processes:
            assert f"waiting for another export of {cached.name}" in process.stderr.readline()
    printed = [process.communicate(timeout=60)[0].split() for process in processes]
    assert sorted(printed, key=len) == [[str(cached)], ["made", str(cached)]]


@pytest.mark.parametrize(
    ("name", "closest"),
    [("smal", "small"), ("cnn14-fusoin", "cnn14-fusion"), ("VGGish", "vggish"), ("x" * 300, "")],
)
def test_an_unknown_name(cache, name, closest):
    with pytest.raises(fe.ArtifactError, match="no such file, and no preset or model") as error:
        fe.Engine(name)
    assert f"the closest first: {closest}" in str(error.value)
    assert ".onnx or .plan" in str(error.value)
    listed = set(str(error.value).partition("first: ")[2].split(", "))
    assert listed == {*PRESETS, *backbones(), "small"}
    assert not cache.exists()


def test_without_torch(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    message = r"small is not in the cache yet: .*torch.*pip install \"\.\[export\]\""
    with pytest.raises(fe.BackendError, match=message):
        named_artifact("small", weights="random:0")
    assert left_in(cache) == []


def test_without_the_network(cache, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/release.pth"
    release = weights.WeightsFile(name="release.pth", url=url, checksum="sha256:00")
    monkeypatch.setattr(weights, "WEIGHTS", {"cnn14_16k": release})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    message = r"the download failed.*--weights PATH.*--weights random:0.*embed small"
    with pytest.raises(fe.WeightsError, match=message):
        fe.Engine("small")
    assert left_in(cache) == []


def test_a_cache_that_cannot_be_used(cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(fe.BackendError, match=r"cannot be used: .*FUSION_ENGINE_CACHE"):
        named_artifact("small", weights="random:0")
