"""Plans of 8-bit artifacts, built for real with tensorrt_rtx."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

import fusion_engine as fe
from fusion_engine import ArtifactError
from fusion_engine.artifact import read_spec
from fusion_engine.engine.tensorrt import build, read_plan
from fusion_engine.quantization import quantize

from ... import signals

pytestmark = pytest.mark.rtx

# FP8 is of these on; the others have no such products.
FP8_TARGETS = ["8.9", "12.0"]


@pytest.fixture(scope="module")
def quantized(shared, two_layers):
    """``quantized("int8")``: CNN14's first two blocks."""

    def get(precision):
        def make(folder):
            quantize(two_layers, folder / "two.onnx", precision=precision)

        return shared(f"plan_two_layers_{precision}", make) / "two.onnx"

    return get


@pytest.mark.parametrize(
    ("eight_bits", "rest"), [("int8", "fp16"), ("int8", "bf16"), ("fp8", "fp16")]
)
def test_a_plan(quantized, tmp_path, eight_bits, rest):
    source, path = quantized(eight_bits), tmp_path / "a.plan"
    options = {"targets": FP8_TARGETS} if eight_bits == "fp8" else {}
    info = build(source, path, precision=rest, **options)
    assert info.spec == replace(read_spec(source), max_frames=info.spec.max_frames)
    assert read_plan(path).spec.quantization == read_spec(source).quantization
    dtype = {"fp16": "float16", "bf16": "bfloat16"}[rest]
    assert {tensor.dtype for tensor in info.sidecar.tensors[1:]} == {dtype}
    assert f"--precision {rest}" in info.rebuild_command


def test_the_rest_is_written_into_the_graph(quantized, tmp_path):
    """In FP16, with scales that are the same numbers; the CPU runs it too."""
    source, typed = quantized("int8"), tmp_path / "typed.onnx"
    build(source, tmp_path / "a.plan", precision="fp16", typed_onnx=typed)
    one, other = (
        {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        for path in (source, typed)
    )
    scales = [name for name in one if name.endswith(".scale") and f"{name[:-6]}.zero" in one]
    assert len(scales) > 5
    for name in scales:
        assert other[name].dtype == np.float16
        np.testing.assert_array_equal(one[name], other[name].astype(np.float32))
    clip = signals.speech_like(1.0, 16_000)
    with fe.Engine(source) as engine:
        wanted = engine.embed(clip)
    with fe.Engine(typed) as engine:
        found = engine.embed(clip)
    # The source has finer steps there.
    assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)


def test_no_mask_between_8_bits(quantized, tmp_path):
    with pytest.raises(ArtifactError, match=r"export with --ragged, and quantize that"):
        build(quantized("int8"), tmp_path / "a.plan", ragged=True)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn14_16k", "vggish", "ast"])
def test_whole_models(artifact, tmp_path, model):
    source = tmp_path / "a.onnx"
    quantize(artifact(model), source, force=True)
    info = build(source, tmp_path / "a.plan", precision="fp16")
    assert info.spec.precision == "int8"
    for path in (source, tmp_path / "a.plan"):
        path.unlink()
