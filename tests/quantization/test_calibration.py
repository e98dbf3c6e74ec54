"""Ranges of activations, against numpy and ONNX Runtime's own calibrators."""

import hashlib
import tracemalloc
from dataclasses import replace

import numpy as np
import onnx
import pytest
import soundfile
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

from fusion_engine import AudioError
from fusion_engine.artifact import read_spec
from fusion_engine.audio import load
from fusion_engine.frontend import Frontend
from fusion_engine.parity import default_signals
from fusion_engine.quantization.calibration import Inputs, clips, find_peaks
from fusion_engine.quantization.quantizer import no_progress

from .. import signals
from .graphs import residual

VALUES = ["x", "a_relu", "b", "both"]
RNG = np.random.default_rng(2)
RUNS = [RNG.standard_normal((1, 1, 24, 8)).astype(np.float32) * size for size in (1, 3, 2)]


@pytest.fixture
def one_layer(spec):
    (layer, _) = spec.layers
    return replace(spec, layers=(layer,), embedding_dim=layer.dim)


def test_minmax_is_the_largest_over_all_runs(one_layer):
    runs = [*RUNS, RUNS[0][:, :, :10]]  # of any lengths
    model = residual()
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in VALUES)
    names = ["layer_1", *VALUES]
    largest = dict.fromkeys(names, 0.0)
    for run in runs:
        found = ReferenceEvaluator(model).run(names, {"log_mel": run})
        for name, array in zip(names, found, strict=True):
            largest[name] = max(largest[name], float(np.abs(array).max()))
    peaks = find_peaks(residual(), runs, one_layer, VALUES, "minmax")
    assert peaks.values == pytest.approx({name: largest[name] for name in VALUES}, rel=1e-5)
    assert peaks.layers == pytest.approx((largest["layer_1"],), rel=1e-5)


class Reader(CalibrationDataReader):
    def __init__(self):
        self.runs = iter([np.concatenate(RUNS)])

    def get_next(self):
        run = next(self.runs, None)
        return None if run is None else {"log_mel": run}


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_histograms_give_what_onnx_runtime_calibrates(one_layer, tmp_path, method):
    onnx.save(residual(), tmp_path / "a.onnx")
    bins = 2048 if method == "percentile" else 128
    methods = {"percentile": CalibrationMethod.Percentile, "entropy": CalibrationMethod.Entropy}
    calibrator = create_calibrator(
        tmp_path / "a.onnx",
        None,
        str(tmp_path / "augmented.onnx"),
        methods[method],
        extra_options={"symmetric": False, "num_bins": bins},
    )
    calibrator.collect_data(Reader())
    data = calibrator.compute_data()
    wanted = {name: max(abs(float(end)) for end in data[name].range_value) for name in VALUES}
    peaks = find_peaks(residual(), [np.concatenate(RUNS)], one_layer, VALUES, method)
    assert peaks.values == pytest.approx(wanted, rel=1e-5)
    if method == "percentile":  # run by run the histogram has other bins
        peaks = find_peaks(residual(), RUNS, one_layer, VALUES, method)
        assert peaks.values == pytest.approx(wanted, rel=2 / 1024)


def test_the_first_minute_of_each_recording_counts(spec, tmp_path):
    rate = spec.frontend.sample_rate
    paths = [tmp_path / "short.wav", tmp_path / "long.wav"]
    soundfile.write(paths[0], signals.speech_like(0.7, rate), rate)
    soundfile.write(paths[1], np.tile(signals.speech_like(5.0, rate), 13), rate)
    steps = []
    inputs = Inputs(spec, paths, lambda *step: steps.append(step))
    runs = list(inputs)
    whole = [load(path, rate).samples[: 60 * rate] for path in paths]
    digest = hashlib.sha256(b"".join(samples.tobytes() for samples in whole))
    assert inputs.sha256 == digest.hexdigest()
    assert inputs.count == 2
    assert [step[1:] for step in steps] == [(0, 2), (1, 2), (2, 2)]
    # Runs of what the artifact takes, at most 512 frames, in order and without a gap.
    assert max(run.shape[2] for run in runs) == spec.max_frames
    log_mel = Frontend(spec.frontend)(whole[0])
    np.testing.assert_array_equal(runs[0][0, 0], log_mel[: spec.max_frames])


def test_without_recordings_the_signals_of_parity_serve(spec):
    found = list(clips(spec, []))
    for signal, samples in zip(default_signals(spec), found, strict=True):
        np.testing.assert_array_equal(samples, signal.samples(spec.frontend.sample_rate))


def test_a_clip_shorter_than_the_model_takes_is_padded(spec):
    (run,) = Inputs(spec, [], no_progress).runs(np.ones(50, np.float32))
    assert run.shape == (1, 1, spec.min_frames, spec.frontend.n_mels)


def test_segments_are_whole(vggish_all):
    spec = read_spec(vggish_all.path)
    runs = list(Inputs(spec, [], no_progress).runs(np.ones(40_000, np.float32)))
    assert {run.shape for run in runs} == {(1, 1, 96, 64)}


def test_what_is_no_audio(spec, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"a\.wav"):
        list(Inputs(spec, [tmp_path / "a.wav"], no_progress))


def test_memory_does_not_grow_with_the_audio(spec, tmp_path):
    """Of a recording a minute is held, in blocks and as one: 8 MB; and of the runs, one."""
    rate = spec.frontend.sample_rate
    soundfile.write(tmp_path / "a.wav", np.zeros(10 * 60 * rate, np.int16), rate)
    tracemalloc.start()
    for path_count in (1, 4):
        for run in Inputs(spec, [tmp_path / "a.wav"] * path_count, no_progress):
            del run
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6
