"""What training code calls a state dict, and what wrappers put before its names."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fusion_engine import ExportError
from fusion_engine.export.checkpoint import read_checkpoint

STATE = {"block1.weight": torch.arange(3.0), "block2.bias": torch.ones(2)}
OTHER = {name: -tensor for name, tensor in STATE.items()}
HEAD = {"fc.weight": torch.ones(5)}
ANCHORS = ("block1.weight",)
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}


def before(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def read(path: Path, content: Any, **choice: Any) -> dict[str, torch.Tensor]:
    torch.save(content, path)
    return read_checkpoint(path, anchors=ANCHORS, **choice)


def assert_is(got: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> None:
    for name, tensor in state.items():
        assert torch.equal(got[name], tensor)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("entry", ["model", "state_dict", "model_state_dict", "net", "module"])
def test_usual_entries(entry: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = {"epoch": 3, entry: STATE, "optimizer": OPTIMIZER, "scaler": {"x": torch.ones(1)}}
    assert read(path, content).keys() == STATE.keys()
    assert read(path, {"model": content}).keys() == STATE.keys()
    assert read(path, {**content, "mean": torch.zeros(3)}).keys() == STATE.keys()
    assert caplog.text == ""


@pytest.mark.parametrize(
    "wrapped",
    [
        *("module.", "_orig_mod.", "model.", "net.", "base."),
        *("module._orig_mod.", "_orig_mod.module.", "model.net.base.", "model.module.model."),
    ],
)
def test_wrappers(wrapped: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """PANNs' transfer models keep their head outside of the ``base``, Lightning its metrics."""
    for content in (before(wrapped, STATE), {**before(wrapped, STATE), **HEAD}):
        got = read(path, {"state_dict": content})
        assert got.keys() == STATE.keys()
        assert_is(got, STATE)
    # Without the tensor that the prefix is known by, all names must share it.
    few = {"block2.bias": STATE["block2.bias"]}
    assert read(path, before(wrapped, few)).keys() == few.keys()
    assert caplog.text == ""


def test_names_as_they_should_be_are_kept(path: Path) -> None:
    assert read(path, {**STATE, **HEAD}).keys() == {*STATE, *HEAD}
    inside = {"block1.weight": torch.ones(1), "model.net.weight": torch.ones(1)}
    assert read(path, inside).keys() == inside.keys()


@pytest.mark.parametrize("ema", ["model_ema", "ema", "state_dict_ema", "ema_state_dict"])
def test_averaged_weights_are_said(ema: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    both = {"model": STATE, ema: OTHER}
    assert_is(read(path, both), STATE)
    assert caplog.messages == [
        f"the checkpoint holds plain weights (model) and averaged ones ({ema}): the plain ones are "
        f"used, --key {ema} takes the others"
    ]
    caplog.clear()
    assert_is(read(path, both, key=ema), OTHER)
    assert_is(read(path, {ema: {"module": OTHER}, "model": STATE}, key=ema), OTHER)
    assert caplog.text == ""
    assert_is(read(path, {ema: OTHER, "epoch": 1}), OTHER)
    assert (
        f"the checkpoint's entry {ema} is used, the only state dict in it: averaged" in caplog.text
    )


def test_averaged_weights_under_a_prefix(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    both = {**before("model.", STATE), **before("model_ema.", OTHER)}
    assert_is(read(path, {"state_dict": both}), STATE)
    assert (
        "under model. and under model_ema.: the first are used, --prefix model_ema." in caplog.text
    )
    assert_is(read(path, {"state_dict": both}, prefix="model_ema"), OTHER)


def test_an_entry_of_another_name(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = {"encoder": STATE, "optimizer": OPTIMIZER}
    assert_is(read(path, content), STATE)
    assert "the checkpoint's entry encoder is used, the only state dict in it" in caplog.text
    caplog.clear()
    assert_is(read(path, content, key="encoder"), STATE)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("key", "expected"),
    [("a", STATE), ("b.c", OTHER), ("b.d.e", STATE), ("x.y", OTHER), ("x.y.z", STATE)],
)
def test_keys_with_dots(key: str, expected: dict[str, torch.Tensor], path: Path) -> None:
    content = {"a": STATE, "b": {"c": OTHER, "d": {"e": dict(STATE)}}}
    content |= {"x.y": {**OTHER, "z": dict(STATE)}}
    assert_is(read(path, content, key=key), expected)


@pytest.mark.parametrize(
    ("content", "choice", "message"),
    [
        (
            {"generator": STATE, "discriminator": OTHER},
            {},
            "2 state dicts: generator, discriminator",
        ),
        (
            {"model": STATE, "state_dict": OTHER},
            {},
            "2 state dicts: model, state_dict.*--key model",
        ),
        ({"model": {"a": STATE, "b": OTHER}}, {}, r"2 state dicts: model\.a, model\.b"),
        (
            {"a": STATE, "epoch": 3},
            {"key": "b"},
            r"no entry 'b' \(--key\); it holds a \(dict\), ",
        ),
        ({"a": STATE}, {"key": "a.b"}, r"entry a has no entry 'b'.*holds block1.weight \(tensor\)"),
        ({"a": STATE, "epoch": 3}, {"key": "epoch"}, "entry epoch holds no state dict.*but a int"),
        ({"a": {"b": {}}}, {}, r"no state dict .*but a \(dict\)\. Expected one.*--key"),
        (STATE, {"prefix": "x."}, r"begins with 'x\.' \(--prefix\)\. The names are block1\.weight"),
        (before("audio.", STATE), {}, r"there under audio\.: say .* with --prefix audio\."),
        ({**before("a.", STATE), **before("b.", OTHER)}, {}, r"under a\., b\.: say which"),
        ({**before("net.", STATE), **STATE}, {}, r"under no prefix, net\.: say .*--prefix net\."),
    ],
    ids=str,
)
def test_what_is_not_clear_is_asked(
    content: Any, choice: dict[str, str], message: str, path: Path
) -> None:
    with pytest.raises(ExportError, match=f"^{re.escape(os.fspath(path))}: .*{message}"):
        read(path, content, **choice)


@pytest.mark.parametrize("prefix", ["audio", "audio.", "audio.net", "audio.net."])
def test_prefixes(prefix: str, path: Path) -> None:
    start = prefix.rstrip(".") + "."
    content = {**before(start, STATE), "audiox.weight": torch.ones(1), **HEAD}
    assert read(path, content, prefix=prefix).keys() == STATE.keys()
    assert read(path, before("clip_", STATE), prefix="clip_").keys() == STATE.keys()


def test_safetensors_have_prefixes_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({**before("model.module.", STATE), **HEAD}, tmp_path / "a.safetensors")
    assert_is(read_checkpoint(tmp_path / "a.safetensors", anchors=ANCHORS), STATE)
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    assert_is(read_checkpoint(tmp_path / "a.pth", anchors=ANCHORS), STATE)
