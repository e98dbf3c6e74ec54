"""The audio that scales are found on, and the largest activations that it gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..audio.decode import Decoding
from ..engine.network import fed
from ..engine.onnx import import_onnxruntime
from ..frontend import Frontend
from ..parity.signals import default_signals
from ..spec import Spec

if TYPE_CHECKING:
    import onnx

Method = Literal["percentile", "entropy", "minmax"]
Samples = NDArray[np.float32]
Progress = Callable[[str, int, int], None]

# Of a recording, from its start: more of the same says little.
MOST_SECONDS = 60.0
# Frames of log-mel in one run.
_FRAMES = 512
# The share of values that a scale has room for, in percent: ONNX Runtime's.
_PERCENTILE = 99.999


def clips(spec: Spec, paths: Sequence[Path]) -> Iterator[Samples]:
    """Samples [N] of each recording's first minute, decoded one at a time.

    Args:
        spec: whose rate they have.
        paths: of the recordings; where there are none, the signals of ``parity``.

    Raises:
        AudioError: as ``load``.
    """
    rate = spec.frontend.sample_rate
    if not paths:
        for signal in default_signals(spec):
            yield signal.samples(rate)[: round(MOST_SECONDS * rate)]
    for path in paths:
        yield _beginning(path, rate)


def _beginning(path: Path, rate: int) -> Samples:
    most, blocks, count = round(MOST_SECONDS * rate), list[Samples](), 0
    with Decoding(path, rate) as decoding:
        for block in decoding:
            blocks.append(block[:, 0])
            count += len(block)
            if count >= most:
                break
    return np.concatenate(blocks)[:most]


class Inputs:
    """Inputs of the network, of clips; iterate as often as there is need.

    Args:
        spec: the artifact's.
        paths: as ``clips`` takes them.
        progress: called with what goes on, how many clips are done, and how many there are.
    """

    def __init__(self, spec: Spec, paths: Sequence[Path], progress: Progress) -> None:
        self.spec, self.paths, self._progress = spec, paths, progress
        self._frontend = Frontend(spec.frontend)
        self.count = len(paths) or len(default_signals(spec))
        self.sha256 = ""

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Log-mel [1, 1, T, n_mels], T at most 512 or a segment."""
        digest = hashlib.sha256()
        for number, samples in enumerate(clips(self.spec, self.paths)):
            self._progress("calibrating", number, self.count)
            digest.update(samples.tobytes())
            yield from self.runs(samples)
        self._progress("calibrating", self.count, self.count)
        self.sha256 = digest.hexdigest()

    def runs(self, samples: Samples) -> Iterator[NDArray[np.float32]]:
        """Log-mel of one clip [N], in runs."""
        spec = self.spec
        least = spec.frontend.samples(spec.min_frames)
        log_mel = self._frontend(np.pad(samples, (0, max(0, least - samples.size))))
        length = spec.segment.frames if spec.segment else min(spec.max_frames, _FRAMES)
        for first in range(0, max(1, len(log_mel) - spec.min_frames + 1), length):
            run = log_mel[first : first + length]
            if spec.segment is not None and len(run) < length:
                run = np.pad(run, ((0, length - len(run)), (0, 0)))
            yield run[None, None]


@dataclass(frozen=True)
class Peaks:
    """The largest |value| that a scale should have room for.

    Args:
        values: of activations, by name.
        layers: of layer outputs, in the spec's order: the largest that was seen.
    """

    values: dict[str, float]
    layers: tuple[float, ...]


def find_peaks(
    model: onnx.ModelProto,
    inputs: Iterable[NDArray[np.float32]],
    spec: Spec,
    values: Sequence[str],
    method: Method,
) -> Peaks:
    """Run audio through a network, and look at its activations.

    The histograms and what is read off them are ``onnxruntime.quantization``'s. Memory is that of
    one run and of the histograms.

    Args:
        model: an FP32 artifact.
        inputs: log-mel [B, 1, T, n_mels].
        spec: the artifact's.
        values: names of the activations.
        method: ``minmax`` has room for all, ``percentile`` for all but one in 100 000 values, and
            ``entropy`` for what keeps the distribution most alike (Kullback-Leibler).
    """
    layers = [layer.name for layer in spec.layers]
    largest = dict.fromkeys([*values, *layers], 0.0)
    collector = None if method == "minmax" else _collector(method)
    run = values_of(model, list(largest), spec)
    for log_mel in inputs:
        found = run(log_mel)
        for name, array in found.items():
            largest[name] = max(largest[name], float(np.abs(array).max()))
        if collector is not None:
            with redirect_stdout(StringIO()):  # it prints
                collector.collect({name: found[name] for name in values})
    peaks = {name: largest[name] for name in values}
    if collector is not None:
        with redirect_stdout(StringIO()):
            result = collector.compute_collection_result()
        peaks = {name: float(max(map(abs, result[name][:2]))) for name in values}
    return Peaks(peaks, tuple(largest[name] for name in layers))


def _collector(method: Literal["percentile", "entropy"]) -> Any:
    from onnxruntime.quantization.calibrate import HistogramCollector

    # Not its symmetric histograms, which are many times slower; both ends are kept all the same.
    return HistogramCollector(
        method=method,
        symmetric=False,
        num_bins=2048 if method == "percentile" else 128,
        num_quantized_bins=128,
        percentile=_PERCENTILE,
        scenario="same",
    )


def values_of(
    model: onnx.ModelProto, values: Sequence[str], spec: Spec
) -> Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """A function that gives inner values of a graph for log-mel."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in values:
        copy.graph.output.append(onnx.ValueInfoProto(name=name))
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    # As it stands: 1.32 fuses convolutions in FP8 into wrong ones above that.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(log_mel: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return dict(zip(values, session.run(list(values), fed(spec, log_mel)), strict=True))

    return run
