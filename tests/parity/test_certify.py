"""Certificates of sound artifacts, of all three models and precisions."""

import json
import sys

import numpy as np
import onnx
import pytest
import soundfile

from fusion_engine import ArtifactError, AudioError, BackendError, ExportError, NumericalError
from fusion_engine.engine.precision import typed_model
from fusion_engine.export import export, resolve
from fusion_engine.parity import Certificate, Signal, certify
from fusion_engine.parity.certificate import FP32_BOUNDS, PYTORCH_FACTOR, ROUNDING

from .conftest import SHORT, Exported

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        *((model, None) for model in ("cnn14", "vggish")),
        *(("vggish", precision) for precision in ("fp16", "bf16")),
        *(
            pytest.param(model, precision, marks=pytest.mark.slow)
            for model in ("cnn14", "ast")
            for precision in ("fp16", "bf16")
        ),
        pytest.param("ast", None, marks=pytest.mark.slow),
    ],
)
def test_sound_artifacts_pass(model: str, precision, request: pytest.FixtureRequest) -> None:
    made: Exported = request.getfixturevalue(model)
    certificate = certify(made.artifact, weights=made.weights, signals=SHORT, precision=precision)
    for c in certificate.comparisons:
        print(
            f"{model} {certificate.precision} {c.input} {c.output}: {c.artifact.error:.1e}, "
            f"PyTorch {c.pytorch.error:.1e}, required {c.required_error:.1e}"
        )
    assert certificate, certificate.failures or certificate.problems
    outputs = [f"layer_{n}" for n in certificate.layers] + ["frame_features", "embedding"]
    assert [c.output for c in certificate.comparisons] == 2 * outputs
    assert [c.input for c in certificate.comparisons] == len(outputs) * ["same_log_mel"] + len(
        outputs
    ) * ["end_to_end"]
    assert certificate.emulated is (precision is not None)
    for c in certificate.comparisons:
        if precision is None:
            assert c.required_error == FP32_BOUNDS[c.input]
            assert c.pytorch == c.pytorch_fp32
        else:
            rounding = ROUNDING[precision]
            assert c.required_error == PYTORCH_FACTOR * c.pytorch.error + rounding
            # Half precision is what was compared, and not FP32 once more.
            assert c.artifact.error > 20 * c.pytorch_fp32.error


def test_long_clips_run_in_chunks(early: Exported) -> None:
    long = (Signal(kind="speech", seconds=3.4321),)
    assert long[0].samples(16_000).size // 160 > 320
    assert certify(early.artifact, weights=early.weights, signals=long)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_typed_graphs_are_emulated(vggish: Exported, precision, tmp_path) -> None:
    typed = tmp_path / "typed.onnx"
    onnx.save_model(typed_model(onnx.load(vggish.artifact), precision), typed)
    certificate = certify(typed, weights=vggish.weights, signals=SHORT[:1])
    assert certificate
    assert (certificate.precision, certificate.emulated) == (precision, True)
    direct = certify(
        vggish.artifact, weights=vggish.weights, signals=SHORT[:1], precision=precision
    )
    # The typed graph, kept in a file or made of the FP32 artifact.
    assert certificate.comparisons == direct.comparisons
    with pytest.raises(ArtifactError, match=f"is in {precision}, expected fp32"):
        certify(typed, weights=vggish.weights, precision="fp16" if precision == "bf16" else "bf16")


def test_named_audio(vggish: Exported, tmp_path) -> None:
    clip = tmp_path / "clip.wav"
    samples = Signal(kind="tone", seconds=1.5).samples(44_100)
    soundfile.write(clip, np.stack([samples, samples], axis=1), 44_100)
    certificate = certify(vggish.artifact, weights=vggish.weights, signals=(), audio=[clip])
    assert certificate
    (entry,) = certificate.clips
    assert (entry.name, entry.seconds) == (str(clip), 1.5)
    with pytest.raises(AudioError, match="missing"):
        certify(
            vggish.artifact, weights=vggish.weights, signals=(), audio=[tmp_path / "missing.wav"]
        )


@pytest.mark.slow
def test_audio_longer_than_the_artifact_takes(cnn14: Exported, tmp_path, caplog) -> None:
    """CNN14's layer 7 pools over the whole clip, which cannot be cut into chunks."""
    artifact, clip = tmp_path / "whole.onnx", tmp_path / "clip.wav"
    export("cnn14", artifact, weights=cnn14.weights, layers=[7], frames=64)
    soundfile.write(clip, Signal(kind="tone", seconds=1.5).samples(16_000), 16_000)
    certificate = certify(artifact, weights=cnn14.weights, signals=(), audio=[clip])
    assert certificate
    assert certificate.clips[0].seconds == pytest.approx(0.63, abs=0.01)
    assert f"{clip}: its first 0.63" in caplog.text


def test_weights_that_the_artifact_cannot_name(vggish: Exported) -> None:
    with pytest.raises(ExportError, match=r"exported from the checkpoint vggish\.pth.*--weights"):
        certify(vggish.artifact)


def test_nothing_to_compare(vggish: Exported) -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        certify(vggish.artifact, signals=())


def test_unknown_precision(vggish: Exported) -> None:
    with pytest.raises(ValueError, match=r"'fp8', expected one of \['fp16', 'bf16'\]"):
        certify(
            vggish.artifact,
            weights=vggish.weights,
            signals=SHORT,
            precision="fp8",  # type: ignore[arg-type]
        )


def test_missing_torch(vggish: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=r'pip install "\.\[export\]"'):
        certify(vggish.artifact)


def test_infinite_reference(vggish: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    model = type(resolve("vggish"))
    monkeypatch.setattr(
        model,
        "reference",
        lambda self, state, x, layers: tuple(
            t * float("inf") for t in self.forward(state, x, layers)
        ),
    )
    with pytest.raises(NumericalError, match="nothing to compare"):
        certify(vggish.artifact, weights=vggish.weights, signals=SHORT[:1])


@pytest.mark.heavy
def test_json(ast: Exported, tmp_path) -> None:
    certificate = certify(ast.artifact, weights=ast.weights, signals=SHORT[:1])
    path = tmp_path / "certificate.json"
    certificate.save(path)
    data = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert data == certificate.to_dict()
    assert data["format_version"] == 1
    assert data["passed"] is True
    assert data["weights"]["source"] == "ast.pth"
    assert len(data["artifact_sha256"]) == len(data["clips"][0]["sha256"]) == 64
    assert {"torch", "onnxruntime", "numpy", "fusion_engine"} <= data["libraries"].keys()
    assert len(data["comparisons"]) == 8
    first = data["comparisons"][0]
    assert first["passed"] is True
    assert first["artifact"]["max_absdiff"] == certificate.comparisons[0].artifact.max_absdiff
    assert isinstance(certificate, Certificate)
