import hashlib
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from fusion_engine import BackendError, ExportError, FusionEngineError, Spec
from fusion_engine.artifact import read_report, read_spec
from fusion_engine.export import ExportReport, export
from fusion_engine.export.backbones import cnn14
from fusion_engine.export.verify import TOLERANCE

from ..exports import CNN14_LAYERS as ALL_LAYERS
from ..oracles import panns_layers, random_log_mel

pytestmark = pytest.mark.heavy

SHORT = (1,)  # what is not about the deep layers is shown on a graph of 150 kB


@pytest.fixture(scope="module")
def session(artifact: ExportReport) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("batch", "frames"), [(1, 32), (3, 33), (2, 63), (1, 64), (1, 101), (2, 157)]
)
def test_every_layer_equals_pannsinference(
    session: onnxruntime.InferenceSession,
    panns_16k_fp64: torch.nn.Module,
    batch: int,
    frames: int,
) -> None:
    log_mel = random_log_mel(batch, frames, seed=frames)
    expected = panns_layers(panns_16k_fp64, log_mel.double())
    outputs = session.run(None, {"log_mel": log_mel.numpy()})
    for number, got in zip(ALL_LAYERS, outputs, strict=True):
        want = expected[number].numpy()
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max(), f"layer {number}"


def test_the_report_says_what_was_written(artifact: ExportReport, checkpoint: Path) -> None:
    assert artifact.layers == ALL_LAYERS
    assert artifact.bytes == artifact.path.stat().st_size
    assert set(artifact.max_error) == {f"layer_{number}" for number in ALL_LAYERS}
    assert 0 < max(artifact.max_error.values()) <= TOLERANCE
    assert all(check.passed and check.max_value > 0.1 for check in artifact.checks)
    spec = artifact.spec
    assert spec.weights.source == "Cnn14_16k.pth"
    assert spec.weights.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert spec.embedding_dim == 5 * 2048 + 4096 + 2048
    assert (spec.frames_per_step, spec.chunk_margin) == (32, None)
    assert (spec.min_frames, spec.max_frames) == (32, 6001)


def test_the_report_is_kept_beside_the_file(artifact: ExportReport, tmp_path: Path) -> None:
    kept = json.loads(Path(f"{artifact.path}.json").read_text())
    assert kept["sha256"] == hashlib.sha256(artifact.path.read_bytes()).hexdigest()
    assert kept["max_error"] == artifact.max_error
    assert (kept["opset"], kept["bytes"]) == (artifact.opset, artifact.bytes)
    assert (kept["layers"], kept["embedding_dim"]) == (list(ALL_LAYERS), 5 * 2048 + 4096 + 2048)
    assert abs(kept["seconds"] - artifact.seconds) < 1e-3
    assert read_report(artifact.path) == kept
    other = tmp_path / "other.onnx"
    other.write_bytes(b"another file")
    Path(f"{other}.json").write_text(json.dumps(kept))
    assert read_report(other) is None


def test_the_file_carries_the_spec(
    artifact: ExportReport, session: onnxruntime.InferenceSession
) -> None:
    meta = session.get_modelmeta()
    assert Spec.from_json(meta.custom_metadata_map["fusion_engine"]) == artifact.spec
    assert meta.producer_name == "fusion_engine"
    assert meta.graph_name == artifact.spec.model == "cnn14_16k"  # not the alias


@pytest.fixture(scope="module")
def two_blocks(panns_16k: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint for exports of blocks 1 and 2: the weights of the others take no memory."""
    path = tmp_path_factory.mktemp("two_blocks") / "Cnn14_16k.pth"
    own = ("bn0", "conv_block1", "conv_block2", "logmel", "spectrogram")
    state = dict(panns_16k.state_dict())
    for name, tensor in state.items():
        if tensor.ndim > 1 and not name.startswith(own):
            state[name] = torch.ones(()).expand(tensor.shape)
    torch.save({"model": state}, path)
    return path


def test_the_same_export_gives_the_same_bytes(tmp_path: Path, two_blocks: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path in (first, second):
        export("cnn14", path, layers=SHORT, weights=two_blocks)
    assert first.read_bytes() == second.read_bytes()


def test_random_weights_do_not_depend_on_the_layers(cnn14_artifact: Path, two_layers: Path) -> None:
    specs = [read_spec(path) for path in (cnn14_artifact, two_layers)]
    assert [len(spec.layers) for spec in specs] == [1, 2]
    assert specs[0].weights == specs[1].weights
    assert specs[0].weights.source == "random:0"


def test_nothing_is_printed(
    tmp_path: Path, two_blocks: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[str] = []
    export("cnn14", tmp_path / "a.onnx", layers=SHORT, weights=two_blocks, progress=steps.append)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert len(steps) == 4


@pytest.mark.parametrize(
    ("arguments", "max_frames"),
    [({"seconds": 10.0}, 1001), ({"frames": 32}, 32), ({"seconds": 0.31}, 32)],
)
def test_the_longest_input_is_a_choice(
    tmp_path: Path, two_blocks: Path, arguments: dict[str, Any], max_frames: int
) -> None:
    report = export("cnn14", tmp_path / "a.onnx", layers=SHORT, weights=two_blocks, **arguments)
    assert report.spec.max_frames == max_frames


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "cnn41"}, "did you mean .*cnn14"),
        ({"model": "CNN14_16K"}, "did you mean cnn14_16k"),
        ({"model": "resnet"}, "models are cnn14_8k, cnn14, cnn14_16k, cnn14_32k, vggish, ast"),
        ({"layers": [8]}, r"unknown layers \[8\]; cnn14_16k has layers 1, 2, 3, 4, 5, 6, 7"),
        ({"layers": [3, 0, -1]}, r"unknown layers \[0, -1\]"),
        ({"layers": [3, 6, 3]}, "name one twice"),
        ({"layers": []}, "no layer was asked for; cnn14_16k has layers 1"),
        ({"seconds": 1.0, "frames": 100}, "give one"),
        ({"seconds": 0.3}, r"at least 32 \(0.31 s\)"),
        ({"frames": 31}, "31 frames: cnn14_16k takes at least 32"),
        ({"seconds": float("nan")}, "finite"),
        ({"seconds": float("inf")}, "finite"),
        ({"seconds": -1.0}, "at least 32"),
        ({"output": "cnn14.pt"}, "ends in .onnx"),
        ({"weights": "random:"}, "random:SEED"),
        ({"weights": "random"}, "random:SEED"),
        ({"weights": "random:x"}, "random:SEED"),
        ({"weights": "random:-1"}, "random:SEED"),
        ({"weights": "random:1.5"}, "random:SEED"),
        ({"weights": "nowhere.pth"}, "nowhere.pth: No such file"),
        ({"weights": "."}, "expected a checkpoint file"),
    ],
    ids=str,
)
def test_wrong_choices_are_explained_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = {"model": "cnn14", "output": "a.onnx", "weights": "random:0", **arguments}
    with pytest.raises(ExportError, match=message):
        export(**chosen)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [{"model": 14}, {"layers": ["3"]}, {"layers": [True]}, {"layers": [3.0]}, {"weights": 0}],
    ids=str,
)
def test_wrong_types(tmp_path: Path, arguments: dict[str, Any]) -> None:
    chosen = {"model": "cnn14", "output": tmp_path / "a.onnx", "weights": "random:0", **arguments}
    with pytest.raises(TypeError):
        export(**chosen)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FusionEngineError, match="create the folder"):
        export("cnn14", tmp_path / "no" / "a.onnx", weights="random:0")


def test_a_full_disk(tmp_path: Path, two_blocks: Path) -> None:
    """The limit on the size of a file stands in for the disk's."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(FusionEngineError, match="free some space"):
            export("cnn14", tmp_path / "a.onnx", layers=SHORT, weights=two_blocks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("library", "extra"), [("torch", "export"), ("onnxscript", "export"), ("onnxruntime", "cpu")]
)
def test_a_missing_library_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BackendError, match=rf'{library}.*pip install "\.\[{extra}\]"'):
        export("cnn14", tmp_path / "a.onnx", weights="random:0")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_model_leaves_nothing(tmp_path: Path, two_blocks: Path) -> None:
    with pytest.raises(ExportError, match=r"weights Cnn14_16k\.pth for cnn14_32k: .*cnn14_16k"):
        export("cnn14_32k", tmp_path / "a.onnx", weights=two_blocks)
    assert list(tmp_path.iterdir()) == []


def test_the_catalogue_needs_no_torch() -> None:
    code = (
        "import sys, json; from fusion_engine.export import backbones; names = list(backbones());"
        "heavy = [m for m in ('torch', 'onnx', 'onnxruntime', 'onnxscript') if m in sys.modules];"
        "print(json.dumps([names, heavy]))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    names, heavy = json.loads(out.stdout)
    assert set(names) == {"cnn14", "cnn14_8k", "cnn14_16k", "cnn14_32k", "vggish", "ast"}
    assert heavy == []


def _no_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    def affine(state: Any, name: str) -> Any:
        weight, bias, mean, var = (state[f"{name}.{part}"].double() for part in cnn14._NORM)
        return weight / var.sqrt(), bias - mean * weight / var.sqrt()

    monkeypatch.setattr(cnn14, "_affine", affine)


def _lost_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = cnn14._affine
    monkeypatch.setattr(
        cnn14, "_affine", lambda state, name: (honest(state, name)[0], state[f"{name}.bias"])
    )


def _change_outputs(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    honest = cnn14.Cnn14.forward
    monkeypatch.setattr(cnn14.Cnn14, "forward", lambda *arguments: change(honest(*arguments)))


def _swapped_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    _change_outputs(monkeypatch, lambda outputs: outputs[::-1])


def _a_pool_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = torch.nn.functional.avg_pool2d
    _change_outputs(monkeypatch, lambda outputs: tuple(pool(x, (2, 1)) for x in outputs))


def _max_pool_for_average(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, folded: Any, log_mel: Any, layers: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(torch.nn.functional, "avg_pool2d", torch.nn.functional.max_pool2d)
            return honest(self, folded, log_mel, layers)

    honest = cnn14.Cnn14.forward
    monkeypatch.setattr(cnn14.Cnn14, "forward", forward)


def _constant_length(monkeypatch: pytest.MonkeyPatch) -> None:
    _change_outputs(monkeypatch, lambda outputs: tuple(x[:, :, :16] for x in outputs))


@pytest.mark.parametrize(
    "fault",
    [
        _no_epsilon,
        _lost_mean,
        _swapped_outputs,
        _a_pool_too_many,
        _max_pool_for_average,
        _constant_length,
    ],
)
def test_a_planted_fault_fails_the_check_and_keeps_the_old_file(
    tmp_path: Path, two_blocks: Path, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"before")
    fault(monkeypatch)
    with pytest.raises(ExportError, match="the exported graph"):
        export("cnn14", path, layers=[1, 2], weights=two_blocks)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_values_beyond_fp32_fail_the_check(tmp_path: Path, panns_16k: torch.nn.Module) -> None:
    state = dict(panns_16k.state_dict())
    for conv in ("conv1", "conv2"):
        name = f"conv_block1.{conv}.weight"
        state[name] = state[name] * 1e25
    torch.save(state, tmp_path / "huge.pth")
    with pytest.raises(ExportError, match="layer_1 is off by"):
        export("cnn14", tmp_path / "a.onnx", layers=SHORT, weights=tmp_path / "huge.pth")
    assert not (tmp_path / "a.onnx").exists()
