"""From artifact to artifact: what is written, what is refused, and what is measured."""

import json

import numpy as np
import onnx
import pytest

import fusion_engine as fe
from fusion_engine import ArtifactError, AudioError, NumericalError
from fusion_engine.artifact import file_sha256, read_spec
from fusion_engine.export import export, export_waveform
from fusion_engine.parity import Signal
from fusion_engine.quantization import calibration, quantize
from fusion_engine.quantization.placement import place

from .. import signals

PRODUCTS = ["conv_block1.conv2", "conv_block2.conv1", "conv_block2.conv2"]
RATE = 16_000
CLIPS = [signals.speech_like(1.0, RATE), signals.chirp(0.7, RATE), signals.noise_burst(2.3, RATE)]


@pytest.fixture
def few_signals(monkeypatch):
    """The whole set takes seconds each time."""
    few = (Signal(kind="speech", seconds=1.0), Signal(kind="noise", seconds=0.5))
    monkeypatch.setattr(calibration, "default_signals", lambda spec: few)


def bounded(monkeypatch, bound):
    module = "fusion_engine.quantization.quantizer.bound_of"
    monkeypatch.setattr(module, lambda model, precision: bound)


def relative_l2(found, wanted):
    return np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_what_is_written(two_layers, tmp_path, few_signals, precision):
    steps = []
    path = tmp_path / "a.onnx"
    report = fe.quantize(
        two_layers, path, precision=precision, progress=lambda *step: steps.append(step)
    )
    assert {found.name for found in tmp_path.iterdir()} == {"a.onnx", "a.onnx.json"}
    spec, source = read_spec(path), read_spec(two_layers)
    assert spec == report.spec
    assert (spec.precision, spec.quantization.method) == (precision, "percentile")
    assert spec.quantization.clips == 2
    assert spec.space == source.space
    assert report.bytes == path.stat().st_size < two_layers.stat().st_size / 2
    assert sorted(report.products) == PRODUCTS
    assert list(report.products.values()) == sorted(report.products.values(), reverse=True)
    assert ("calibrating", 2, 2) in steps
    data = json.loads((tmp_path / "a.onnx.json").read_text())
    assert data["sha256"] == file_sha256(path)
    assert data["relative_l2"] == {
        **report.layers,
        "embedding": report.embedding,
        "bound": report.bound,
    }
    # The embedding's error is that of the engine over the same clips.
    few = [np.asarray(s.samples(RATE)) for s in calibration.default_signals(spec)]
    with fe.Engine(two_layers) as exact, fe.Engine(path) as rounded:
        errors = relative_l2(rounded.embed(few), exact.embed(few))
        others = relative_l2(rounded.embed(CLIPS[:2]), exact.embed(CLIPS[:2]))
    assert report.embedding == pytest.approx(errors.max(), rel=1e-5)
    assert 1e-3 < report.embedding < report.bound
    assert others.max() < report.bound


def test_layer_errors_are_those_of_the_graph(two_layers, tmp_path, few_signals):
    """By ONNX's reference, over both signals."""
    from onnx.reference import ReferenceEvaluator

    report = quantize(two_layers, tmp_path / "a.onnx")
    inputs = calibration.Inputs(report.spec, [], lambda *_: None)
    runs = [run for clip in calibration.clips(report.spec, []) for run in inputs.runs(clip)]
    names = list(report.layers)
    off, whole = np.zeros(len(names)), np.zeros(len(names))
    for run in runs:
        both = (
            ReferenceEvaluator(onnx.load(path)).run(names, {"log_mel": run})
            for path in (two_layers, tmp_path / "a.onnx")
        )
        for index, (wanted, found) in enumerate(zip(*both, strict=True)):
            off[index] += np.square(found - wanted, dtype=np.float64).sum()
            whole[index] += np.square(wanted, dtype=np.float64).sum()
    wanted = dict(zip(names, np.sqrt(off / whole), strict=True))
    assert report.layers == pytest.approx(wanted, rel=0.02)


def test_the_same_twice(two_layers, tmp_path, few_signals):
    for name in "ab":
        quantize(two_layers, tmp_path / f"{name}.onnx", auto_keep=0.012)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_layers_that_are_kept(two_layers, tmp_path, few_signals):
    report = quantize(two_layers, tmp_path / "a.onnx", keep=PRODUCTS[:2])
    assert list(report.products) == PRODUCTS[2:]
    assert report.kept == tuple(PRODUCTS[:2])
    kinds = {t.name for t in onnx.load(tmp_path / "a.onnx").graph.initializer}
    assert "conv_block1.conv2.weight" in kinds
    with pytest.raises(ValueError, match=r"no layer conv9 can be in 8 bits; expected some of conv"):
        quantize(two_layers, tmp_path / "b.onnx", keep=["conv9"])
    with pytest.raises(ArtifactError, match="nothing in its graph can be in 8 bits"):
        quantize(two_layers, tmp_path / "b.onnx", keep=PRODUCTS)


def test_auto_keep_keeps_what_adds_most_until_the_bound(two_layers, tmp_path, few_signals):
    free = quantize(two_layers, tmp_path / "a.onnx")
    worst = next(iter(free.products))
    bound = 0.9 * free.embedding
    report = quantize(two_layers, tmp_path / "b.onnx", auto_keep=bound)
    assert report.embedding <= bound == report.bound
    assert worst in report.kept
    assert len(report.kept) < len(PRODUCTS)


def test_what_loses_too_much_is_refused_with_what_to_keep(
    two_layers, tmp_path, few_signals, monkeypatch
):
    bounded(monkeypatch, 1e-4)
    path = tmp_path / "a.onnx"
    with pytest.raises(NumericalError, match=r"0\.0001 is accepted of cnn14_16k in int8") as error:
        quantize(two_layers, path)
    assert all(f"--keep {name}" in str(error.value) for name in PRODUCTS)
    assert not list(tmp_path.iterdir())
    with pytest.raises(NumericalError, match="is accepted"):
        quantize(two_layers, path, auto_keep=1e-9)
    assert not list(tmp_path.iterdir())
    report = quantize(two_layers, path, force=True)
    assert report.embedding > report.bound
    assert path.exists()


@pytest.mark.parametrize("phase", ["calibrating", "measuring, 1."])
def test_nothing_half_written_is_left(two_layers, tmp_path, few_signals, phase):
    def stop(what, done, total):
        if what == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(two_layers, tmp_path / "a.onnx", progress=stop)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_quantized(two_layers, eight_bits, tmp_path):
    out = tmp_path / "a.onnx"
    with pytest.raises(ArtifactError, match="int8, expected the FP32"):
        quantize(eight_bits("int8"), out)
    with pytest.raises(ArtifactError, match="no such file"):
        quantize(tmp_path / "none.onnx", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="empty"):
        quantize(two_layers, out, calibration=[tmp_path / "empty"])
    with pytest.raises(fe.FusionEngineError, match="input"):
        quantize(two_layers, two_layers)


def test_no_vnni_is_said(two_layers, tmp_path, few_signals, monkeypatch, caplog):
    monkeypatch.setattr("fusion_engine.quantization.quantizer.dot_products", lambda: False)
    quantize(two_layers, tmp_path / "a.onnx", precision="fp8")
    assert not caplog.messages
    quantize(two_layers, tmp_path / "b.onnx")
    assert "no VNNI" in caplog.text


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_batch_gives_each_clip_what_it_has_alone(eight_bits, precision):
    same = [signals.speech_like(1.0, RATE, seed) for seed in range(4)]
    with fe.Engine(eight_bits(precision)) as engine:
        together = engine.embed([*same, *CLIPS])
        for clip, row in zip([*same, *CLIPS], together, strict=True):
            np.testing.assert_array_equal(engine.embed(clip), row)


@pytest.fixture(scope="session")
def ragged(shared):
    def make(folder):
        source = folder / "source.onnx"
        export("cnn14", source, layers=[1, 2], weights="random:0", seconds=2, ragged=True)
        quantize(source, folder / "a.onnx")

    return shared("two_layers_ragged_int8", make) / "a.onnx"


@pytest.mark.slow
def test_clips_of_different_lengths_share_a_batch(ragged):
    assert read_spec(ragged).masked
    placement = place(onnx.load(ragged.parent / "source.onnx").graph)
    assert [p.name for p in placement.products] == PRODUCTS
    lengths = (0.4, 0.55, 1.0, 1.3, 1.9)
    various = [signals.speech_like(seconds, RATE, seed=4) for seconds in lengths]
    with fe.Engine(ragged) as engine:
        together = engine.embed(various)
        alone = np.stack([engine.embed(clip) for clip in various])
    assert relative_l2(together, alone).max() < 1e-6


def test_the_name_at_the_top():
    assert fe.quantize is quantize


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("fixture", ["cnn14_fusion", "vggish_all", "ast_second"])
def test_whole_models_keep_their_bounds(request, tmp_path, fixture, precision):
    source = request.getfixturevalue(fixture).path
    path = tmp_path / "a.onnx"
    report = quantize(source, path, precision=precision)
    path.unlink()
    assert report.embedding <= report.bound
    assert not report.kept


def test_a_waveform_artifact_is_refused(cnn14_artifact, tmp_path):
    export_waveform(cnn14_artifact, tmp_path / "w.onnx")
    with pytest.raises(ArtifactError, match=r"w\.onnx: a waveform artifact"):
        quantize(tmp_path / "w.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
