"""From an artifact to one portable graph: samples to embedding, for any ONNX Runtime."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .._atomic import atomic_path
from .._cpus import usable_cpus
from ..artifact import read_spec, takes_samples
from ..engine.cut import Cutting, least_frames
from ..engine.onnx import OnnxNetwork, import_onnxruntime
from ..engine.stats import Meter
from ..errors import ExportError
from ..spec import Spec
from .export_report import ExportReport
from .exporter import onnx_path, reported
from .files import written
from .graph import OPSET
from .verify import LayerCheck
from .waveform_graph import add_waveform

# Of the largest value. Noise has no bins far below its peak, which FP32 would round away: 3e-7 to
# 5e-7 was measured for the models by name.
TOLERANCE = 2e-5


def export_waveform(
    artifact: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Write an artifact as one plain ONNX graph from ``samples`` to ``embedding``.

    Frontend, cutting into segments, backbone and fusion are standard operators in FP32. Input is
    float32 [B, N] at the model's rate, all clips of one length, which may be any; output float32
    [B, D]. The file appears only after it gave the artifact's embeddings of noise, to 2e-5 of their
    largest value. Its report is kept beside it, as ``OUTPUT.json``.

    Args:
        artifact: an ``.onnx`` in FP32 that ``export`` or ``export_module`` wrote.
        output: the ``.onnx`` file to write.
        progress: called with a few words at the start of each step.

    Raises:
        ArtifactError: the artifact is missing or damaged.
        BackendError: onnxruntime is missing.
        ExportError: it is no FP32 graph from log-mel on, or a failed check.
        FusionEngineError: ``output`` cannot be written.
    """
    started = time.perf_counter()
    source, path = Path(artifact), onnx_path(output)
    step = progress or (lambda text: None)
    import_onnxruntime()
    import onnx

    spec = read_spec(source)
    fits = source.suffix == ".onnx" and spec.precision == "fp32" and not spec.masked
    if not fits or takes_samples(source):
        raise ExportError(
            f"{source}: expected an .onnx in FP32 that takes log-mel alone, as `fusion-engine "
            "export` writes without --waveform and --ragged"
        )
    if os.path.realpath(source) == os.path.realpath(path):
        raise ExportError(f"{path} is the artifact itself: give the waveform graph another name")
    step("adding frontend and fusion")
    model = onnx.load(source)
    spec = add_waveform(model, spec)
    with atomic_path(path) as temporary, written(model, temporary) as data:
        del model  # as large as the weights
        step("checking against the engine")
        check = _verify(source, temporary)
        return reported(
            path,
            temporary,
            data,
            spec=spec,
            opset=OPSET,
            checks=(check,),
            activations={},
            started=started,
        )


def _verify(source: Path, made: Path) -> LayerCheck:
    """The embeddings that both files give of the verification clips."""
    clips = verification_clips(read_spec(source))
    threads = usable_cpus()
    wanted = _embedded(OnnxNetwork(source, threads=threads), clips)  # one at a time is in memory
    network = OnnxNetwork(made, threads=threads)
    difference = value = 0.0
    for batch, want in zip(clips, wanted, strict=True):
        (got,) = network.run(batch)
        difference = float(np.maximum(difference, np.abs(got - want).max()))  # NaN stays
        value = max(value, float(np.abs(want).max()))
    check = LayerCheck(name="embedding", max_abs=difference, max_value=value, tolerance=TOLERANCE)
    if not check.passed:
        raise ExportError(
            f"the waveform graph is off by {check.error:.1e} of the embedding's largest value, "
            f"expected at most {TOLERANCE:.0e}: its backbone amplifies what FP32 rounds in a "
            "log-mel. Run the artifact itself, whose frontend is in FP64"
        )
    return check


def verification_clips(spec: Spec) -> list[NDArray[np.float32]]:
    """Seeded noise [2, N]: shorter than the model takes, and two and a half of its shortest."""
    front = spec.frontend
    least = front.samples(max(least_frames(spec), spec.min_frames))
    rng = np.random.default_rng(20220517)
    lengths = front.hop_length + 1, min(5 * least // 2 + 77, Cutting(spec).most_samples)
    return [rng.uniform(-0.5, 0.5, (2, length)).astype(np.float32) for length in lengths]


def _embedded(
    network: OnnxNetwork, clips: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """By the engine's own frontend and fusion."""
    from ..engine.cpu import CpuRunner  # needs the native module, which exporting does not

    spec = network.spec
    runner = CpuRunner(network, spec, threads=1, meter=Meter())
    head = spec.head if spec.frames_per_step is not None else "mean"
    results = []
    for batch in clips:
        cut = runner.cutting.cut(batch.shape[1])
        assert cut is not None  # it is no longer than one run
        results.append(np.concatenate([runner.run([clip], cut, head)[0] for clip in batch]))
    return results
