import hashlib
import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusion_engine import BackendError, ExportError, WeightsError
from fusion_engine.export import resolve
from fusion_engine.export.checkpoint import load_weights, read_checkpoint
from fusion_engine.weights import WEIGHTS

from ...oracles import panns_checkpoint
from .files import RunsCode, legacy

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "bn.num_batches_tracked": torch.tensor(3)}
SAMPLER = {
    "indexes": np.arange(5),
    "pointer": np.int64(3),
    "rate": np.float32(0.5),
    "names": np.array(["a", "bc"]),
    "raw": np.array([b"a"]),
    "seen": np.array([True]),
    "per_class": [np.array([1, 2], np.int32), np.zeros(2)],
    "queue": [1, 2],
}


def assert_is_state(got: dict[str, torch.Tensor]) -> None:
    assert got.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert torch.equal(got[name], tensor)


@pytest.mark.parametrize("save", [torch.save, legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"model": STATE},
        {"iteration": 600_000, "model": STATE, "sampler": SAMPLER},
        {f"module.{name}": tensor for name, tensor in STATE.items()},
        {name: torch.nn.Parameter(t, t.is_floating_point()) for name, t in STATE.items()},
    ],
    ids=["bare", "model", "sampler", "DataParallel", "parameters"],
)
def test_torch_formats(save: Callable[[Any, Path], None], content: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save(content, path)
    assert_is_state(read_checkpoint(path))


@pytest.mark.parametrize(("written", "by"), [("numpy.core", "1"), ("numpy._core", "2")])
def test_arrays_of_both_numpy_generations(tmp_path: Path, written: str, by: str) -> None:
    path = tmp_path / f"numpy{by}.pth"
    legacy({"model": STATE, "sampler": SAMPLER}, path)
    # The pickle of a legacy file names the modules in plain text, one to a line.
    raw = path.read_bytes().replace(b"numpy._core.", b"numpy.core.")
    path.write_bytes(raw.replace(b"numpy.core.", f"{written}.".encode()))
    assert f"c{written}.multiarray\n".encode() in path.read_bytes()
    assert_is_state(read_checkpoint(path))


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="an optional format")
    path = tmp_path / "weights.safetensors"
    safetensors.save_file(STATE, path)
    assert_is_state(read_checkpoint(path))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ExportError, match="cannot be read as safetensors"):
        read_checkpoint(path)


def test_safetensors_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\x02" + bytes(7) + b"{}")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(BackendError, match="pip install safetensors"):
        read_checkpoint(path)


@pytest.mark.parametrize("save", [torch.save, legacy], ids=["zip", "legacy"])
def test_code_in_a_checkpoint_is_not_run(save: Callable[[Any, Path], None], tmp_path: Path) -> None:
    path, target = tmp_path / "evil.pth", tmp_path / "ran"
    save({"model": STATE, "sampler": RunsCode(target)}, path)
    with pytest.raises(ExportError, match=r"refers to \w+\.system, which is code"):
        read_checkpoint(path)
    assert not target.exists()


def test_code_in_a_plain_pickle_is_not_run(tmp_path: Path) -> None:
    path, target = tmp_path / "evil.pth", tmp_path / "ran"
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps(RunsCode(target), protocol))
        with pytest.raises(ExportError):
            read_checkpoint(path)
    assert not target.exists()


def test_what_lies_beside_the_weights_is_not_looked_at(tmp_path: Path) -> None:
    """Arrays of objects, sets, sizes, optimisers: whatever ``torch.load`` takes or could take."""
    beside = {
        "objects": np.array([{}], dtype=object),
        "set": {1, 2},
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "complex": 1j,
        "bytes": b"abc",
        "array": bytearray(b"abc"),
        (1, 2): "a key that is a tuple",
        2**70: 2**70,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
    }
    for save in (torch.save, legacy):
        save({"model": STATE, **beside}, tmp_path / "beside.pth")
        assert_is_state(read_checkpoint(tmp_path / "beside.pth"))


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ExportError, match=r"torch\.nn\.modules\.linear\.Linear, which is code"):
        read_checkpoint(tmp_path / "module.pth")


@pytest.mark.parametrize("save", [torch.save, legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.99])
def test_truncated(save: Callable[[Any, Path], None], kept: float, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save({"model": STATE}, path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw))])
    with pytest.raises(ExportError, match="truncated"):
        read_checkpoint(path)


@pytest.mark.parametrize("raw", [b"hello world\n", b"<html>404</html>", b"\x00" * 1000, b"PK\x03"])
def test_no_checkpoint(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(raw)
    with pytest.raises(ExportError, match="cannot be read as a PyTorch checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [{}, [1, 2], {"model": {"a": 1}}, {1: torch.ones(1)}], ids=str)
def test_no_state_dict(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ExportError, match="no state dict"):
        read_checkpoint(tmp_path / "weights.pth")


def test_sources(tmp_path: Path) -> None:
    model = resolve("cnn14")
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "weights.pth"
    torch.save(STATE, path)
    _, source = load_weights(model, os.fspath(path))
    assert source.source == "weights.pth"
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_pretrained_is_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSION_ENGINE_CACHE", os.fspath(tmp_path))
    monkeypatch.setenv("FUSION_ENGINE_OFFLINE", "1")
    path = tmp_path / WEIGHTS["cnn14_8k"].name
    with pytest.raises(WeightsError, match=re.escape(path.name)):
        load_weights(resolve("cnn14_8k"), "pretrained")
    torch.save(STATE, path)
    state, source = load_weights(resolve("cnn14_8k"), "pretrained")
    assert_is_state(state)
    assert source.source == "pretrained"
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hash_of_random_weights_is_that_of_their_bytes() -> None:
    state, source = load_weights(resolve("cnn14"), "random:007")
    assert source.source == "random:7"
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(state[name].numpy().tobytes())
    assert source.sha256 == digest.hexdigest()


def test_the_official_file_as_saved_by_panns(panns_16k: torch.nn.Module, checkpoint: Path) -> None:
    assert set(panns_checkpoint(panns_16k)) == {"iteration", "model", "sampler"}
    state = read_checkpoint(checkpoint)
    assert state.keys() == panns_16k.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in panns_16k.state_dict().items())


def test_a_choice_within_a_file_has_a_hash_of_its_own(tmp_path: Path) -> None:
    """Two models in one file are not the same weights; how they were named does not matter."""
    path, model = tmp_path / "weights.pth", resolve("cnn14")
    other = {name: -tensor for name, tensor in STATE.items()}
    torch.save({"model": STATE, "model_ema": {f"a.{k}": t for k, t in other.items()}}, path)
    state, whole = load_weights(model, path)
    assert_is_state(state)
    assert whole.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    state, source = load_weights(model, path, key="model_ema", prefix="a")
    assert torch.equal(state["conv.weight"], other["conv.weight"])
    digest = hashlib.sha256()
    for name in sorted(other):
        digest.update(other[name].numpy().tobytes())
    assert (source.source, source.sha256) == ("weights.pth", digest.hexdigest())


@pytest.mark.parametrize("weights", ["pretrained", "random:1"])
def test_a_choice_is_for_files(weights: str) -> None:
    with pytest.raises(ExportError, match="key and prefix are for a checkpoint's path"):
        load_weights(resolve("cnn14"), weights, key="model")
    with pytest.raises(TypeError, match="prefix must be a str or None, got int"):
        load_weights(resolve("cnn14"), weights, prefix=3)  # type: ignore[arg-type]
