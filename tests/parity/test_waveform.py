"""Certificates of waveform artifacts: sound ones, and faults planted in their frontends."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import fusion_engine as fe
from fusion_engine import ArtifactError
from fusion_engine.export import export_waveform
from fusion_engine.parity import Certificate, Signal, certify
from fusion_engine.parity.certificate import FP32_BOUNDS, PYTORCH_FACTOR
from fusion_engine.parity.subject import longest_input, signals_of
from fusion_engine.spec import Spec

from ..engine.cuda.artifacts import CHUNKED, PADDED, write_artifact
from .conftest import SHORT, Exported

pytestmark = pytest.mark.heavy

# Of a sweep an FP32 spectrum is off the most.
SIGNALS = (*SHORT, Signal(kind="chirp", seconds=2.0))


@pytest.fixture(scope="module")
def waveform(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Exported]:
    """``waveform("vggish")``: of the export of that name."""
    made: dict[str, Exported] = {}

    def of(name: str) -> Exported:
        if name not in made:
            source: Exported = request.getfixturevalue(name)
            path = tmp_path_factory.mktemp("waveform") / f"{name}.onnx"
            made[name] = Exported(export_waveform(source.artifact, path).path, source.weights)
        return made[name]

    return of


@pytest.mark.parametrize(
    "model",
    [
        "vggish",
        *(pytest.param(model, marks=pytest.mark.slow) for model in ("early", "ast")),
    ],
)
def test_sound_artifacts_pass(waveform, model: str) -> None:
    made = waveform(model)
    certificate = certify(made.artifact, weights=made.weights, signals=SIGNALS)
    (comparison,) = certificate.comparisons
    print(
        f"{model}: {comparison.artifact.error:.1e}, PyTorch {comparison.pytorch.error:.1e}, "
        f"required {comparison.required_error:.1e}"
    )
    assert certificate, certificate.failures or certificate.problems
    assert (comparison.input, comparison.output) == ("end_to_end", "embedding")
    assert (certificate.precision, certificate.emulated) == ("fp32", False)
    bound = FP32_BOUNDS["end_to_end"] + PYTORCH_FACTOR * comparison.pytorch.error
    assert comparison.required_error == bound
    # What its own frontend adds is in PyTorch's error: the bound is no wider than that asks for.
    assert comparison.required_error < 5e-4


@pytest.mark.parametrize("spec", [CHUNKED, PADDED], ids=lambda spec: spec.model)
def test_signals_are_no_longer_than_it_takes(tmp_path: Path, spec: Spec) -> None:
    source = write_artifact(tmp_path / "small.onnx", spec)
    path = export_waveform(source, tmp_path / "waveform.onnx").path
    most = 6.0 if spec is CHUNKED else 60.0
    assert longest_input(path) == pytest.approx(most, abs=0.2)
    assert longest_input(source) == math.inf
    longest = max(signal.seconds for signal in signals_of(path))
    assert longest == pytest.approx(min(most, 10.0), abs=0.02)
    with fe.Engine(path) as engine:
        for signal in signals_of(path):
            assert np.isfinite(engine.embed(signal.samples(16_000))).all()


def zero_coefficient(kernel: np.ndarray) -> None:
    kernel[50, 0, 256] = 0.0


def shift(kernel: np.ndarray) -> None:
    kernel[:] = np.roll(kernel, 1, axis=2)


def symmetric_window(kernel: np.ndarray) -> None:
    size = kernel.shape[2]
    turns = np.arange(size)[None, None]
    periodic, symmetric = (0.5 - 0.5 * np.cos(2 * np.pi * turns / p) for p in (size, size - 1))
    kernel *= symmetric / np.maximum(periodic, 1e-9)


@pytest.mark.parametrize("fault", [zero_coefficient, shift, symmetric_window])
def test_a_wrong_frontend(waveform, edited, fault: Callable[[np.ndarray], None]) -> None:
    def edit(model: onnx.ModelProto) -> None:
        conv = next(node for node in model.graph.node if node.op_type == "Conv")
        (kernel,) = (t for t in model.graph.initializer if t.name == conv.input[1])
        values = onnx.numpy_helper.to_array(kernel).copy()
        fault(values)
        kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))

    made = waveform("vggish")
    certificate: Certificate = certify(
        edited(made.artifact, edit), weights=made.weights, signals=SIGNALS
    )
    (comparison,) = certificate.failures
    assert comparison.artifact.error > 10 * comparison.required_error


def test_half_precision_is_refused(waveform) -> None:
    artifact: Path = waveform("vggish").artifact
    with pytest.raises(ArtifactError, match=r"power spectra exceed half precision.*--waveform"):
        certify(artifact, weights=waveform("vggish").weights, precision="fp16")
