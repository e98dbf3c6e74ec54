"""Frontend and layer fusion as ONNX operators around a backbone's graph: samples to embedding."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..artifact import EMBEDDING, SAMPLES
from ..engine.cut import least_frames
from ..engine.network import INPUT
from ..errors import ExportError
from ..frontend import FrontendSpec
from ..frontend.mel import filter_bank
from ..frontend.window import analysis_window
from ..spec import METADATA_KEY, Head, Spec
from .graph import OPSET

if TYPE_CHECKING:
    import onnx

_POOLS: dict[Head, tuple[str, ...]] = {
    "mean_max": ("ReduceMean", "ReduceMax"),
    "mean": ("ReduceMean",),
    "max": ("ReduceMax",),
}


def add_waveform(model: onnx.ModelProto, spec: Spec) -> Spec:
    """Make of an artifact's graph one from ``samples`` [B, N] to ``embedding`` [B, D], in place.

    All nodes are standard operators, and compute in FP32.

    Args:
        model: from log-mel to the layer outputs.
        spec: its spec.

    Returns:
        the spec that the graph now has in its metadata: without chunks, which it does not make.

    Raises:
        ExportError: another opset, or its own values have names of the frontend's or the fusion's.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    if opset != OPSET:
        raise ExportError(f"the graph is of opset {opset}, expected {OPSET}: export it again")
    _require_free_names(graph)
    frontend, fusion = _Nodes("frontend"), _Nodes("fusion")
    segments = _frontend(frontend, spec)
    _fusion(fusion, spec, segments)
    # Copied first: clearing the field ends the life of its nodes.
    backbone = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    for field in ("node", "input", "output"):
        graph.ClearField(field)
    graph.node.extend([*frontend.nodes, *backbone, *fusion.nodes])
    graph.initializer.extend([*frontend.initializers, *fusion.initializers])
    for values, name, shape in (
        (graph.input, SAMPLES, ["batch", "samples"]),
        (graph.output, EMBEDDING, ["batch", spec.embedding_dim]),
    ):
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    spec = replace(spec, chunk_margin=None)
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    entry.value = spec.to_json()
    return spec


def dft_kernel(spec: FrontendSpec) -> NDArray[np.float64]:
    """What makes a frame's spectrum of its samples: real parts, then imaginary ones.

    Removal of the mean, pre-emphasis, window and DFT are linear, and so one matrix.

    Returns:
        [2 · (n_fft // 2 + 1), n], for frames of n samples: ``n_fft`` where frames are centred,
        else ``win_length``.
    """
    frames = np.eye(spec.win_length)
    if spec.remove_dc:
        frames -= frames.mean(axis=1, keepdims=True)
    if spec.preemphasis:
        before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        frames = frames - spec.preemphasis * before
    spectrum = np.fft.rfft(frames * analysis_window(spec), spec.n_fft)
    kernel = np.concatenate([spectrum.real, spectrum.imag], axis=1).T
    # The last frame of a centred framing is where n_fft samples still fit.
    missing = spec.n_fft - spec.win_length if spec.padding == "reflect" else 0
    return np.pad(kernel, ((0, 0), (0, missing)))


class _Nodes:
    """Nodes and constants whose names begin with one word, which no traced name does."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def __call__(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node; the name of its output."""
        from onnx import helper

        name = f"{self._prefix}/{op.lower()}_{len(self.nodes)}"
        output = output or name
        self.nodes.append(helper.make_node(op, list(inputs), [output], name, **attributes))
        return output

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> str:
        """Add a constant; its name."""
        from onnx import numpy_helper

        name = f"{self._prefix}/constant_{len(self.initializers)}"
        array = np.ascontiguousarray(np.asarray(value, dtype))
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def sizes(self, *values: int) -> str:
        """A constant of int64 [n]."""
        return self.constant(values, np.int64)

    def size(self, value: str, axis: int) -> str:
        """The size of a value's axis, int64 [1]."""
        return self("Shape", value, start=axis, end=axis + 1)


def _require_free_names(graph: onnx.GraphProto) -> None:
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    taken = sorted(
        name
        for name in names
        if name in (SAMPLES, EMBEDDING) or name.startswith(("frontend/", "fusion/"))
    )
    if taken:
        raise ExportError(
            f"values of the graph are called {', '.join(taken[:3])}, which the waveform graph "
            "needs for its own: rename these modules and export again"
        )


def _frontend(add: _Nodes, spec: Spec) -> str | None:
    """From ``samples`` [B, N] to ``log_mel`` [R, 1, T, n_mels].

    Returns:
        the name of the segments' weights [S, 1] where an embedding is their weighted mean.
    """
    rows = _log_mel(add, spec)
    rule = spec.segment
    if rule is None:
        add("Unsqueeze", rows, add.sizes(1), output=INPUT)
        return None
    length, frames = add.sizes(rule.frames), add.size(rows, 1)
    weights = None
    if rule.last == "drop":
        whole = add("Mul", add("Div", frames, length), length)
        rows = add("Slice", rows, add.sizes(0), whole, add.sizes(1))
    else:
        # Rounded up.
        count = add("Div", add("Add", frames, add.sizes(rule.frames - 1)), length)
        missing = add("Sub", add("Mul", count, length), frames)
        pads = add("Concat", add.sizes(0, 0, 0, 0), missing, add.sizes(0), axis=0)
        front = spec.frontend
        silence = -front.mean / (2 * (front.std or 0.5))  # zeros before the normalisation
        rows = add("Pad", rows, pads, add.constant(silence), mode="constant")
        if spec.frames_per_step is None:
            weights = _real_shares(add, frames, count, length)
    shape = add.sizes(-1, 1, rule.frames, spec.frontend.n_mels)
    add("Reshape", rows, shape, output=INPUT)
    return weights


def _real_shares(add: _Nodes, frames: str, count: str, length: str) -> str:
    """The share [S, 1] of a clip's frames that each segment has."""
    from onnx import TensorProto

    zero, one = (add.constant(value, np.int64) for value in (0, 1))
    index = add("Range", zero, add("Squeeze", count), one)
    real = add("Min", add("Sub", frames, add("Mul", index, length)), length)
    numbers = [add("Cast", value, to=TensorProto.FLOAT) for value in (real, frames)]
    return add("Unsqueeze", add("Div", *numbers), add.sizes(1))


def _log_mel(add: _Nodes, spec: Spec) -> str:
    """[B, T, n_mels] of ``samples`` [B, N], which are zero-padded where they are too few."""
    front = spec.frontend
    least = add.sizes(front.samples(least_frames(spec)))
    missing = add("Max", add("Sub", least, add.size(SAMPLES, 1)), add.sizes(0))
    pads = add("Concat", add.sizes(0, 0, 0), missing, axis=0)
    signal = add("Pad", SAMPLES, pads, add.constant(0.0), mode="constant")
    signal = add("Unsqueeze", signal, add.sizes(1))
    if front.padding == "reflect":
        half = front.n_fft // 2
        signal = add("Pad", signal, add.sizes(0, 0, half, 0, 0, half), mode="reflect")
    kernel = add.constant(dft_kernel(front)[:, None])
    spectrum = add("Conv", signal, kernel, strides=[front.hop_length])
    parts = add("Reshape", spectrum, add.sizes(0, 2, front.n_fft // 2 + 1, -1))
    power = front.spectrum == "power"
    levels = add("ReduceSumSquare" if power else "ReduceL2", parts, add.sizes(1), keepdims=0)
    levels = add("Transpose", levels, perm=[0, 2, 1])
    return _log(add, add("MatMul", levels, add.constant(filter_bank(front))), front)


def _log(add: _Nodes, mel: str, front: FrontendSpec) -> str:
    """Logarithm and normalisation."""
    offset = add.constant(front.log_offset)
    rows = add("Log", add("Add" if front.log == "ln_add" else "Max", mel, offset))
    if front.log == "db":
        rows = add("Mul", rows, add.constant(10 / np.log(10)))
    if front.mean:
        rows = add("Sub", rows, add.constant(front.mean))
    if front.std is not None:
        rows = add("Div", rows, add.constant(2 * front.std))
    return rows


def _fusion(add: _Nodes, spec: Spec, weights: str | None) -> None:
    """Eq. 1 to 3: from the layer outputs to ``embedding`` [B, D]."""
    maps = {
        layer.name: add(
            "MaxPool", layer.name, kernel_shape=[layer.time_pool, 1], strides=[layer.time_pool, 1]
        )
        for layer in spec.layers
        if layer.time_pool > 1
    }

    def features(pool: str) -> str:
        """[R, D]: each map pooled over its time, channel-major, and each vector as it is."""
        parts = []
        for layer in spec.layers:
            part = maps.get(layer.name, layer.name)
            if layer.kind == "map":
                part = add(pool, part, add.sizes(2), keepdims=0)
                part = add("Reshape", part, add.sizes(-1, layer.dim))
            parts.append(part)
        return add("Concat", *parts, axis=1)

    def of_clips(rows: str) -> str:
        """[B, S, D]."""
        sizes = add.sizes(-1, spec.embedding_dim)
        return add("Reshape", rows, add("Concat", add.size(SAMPLES, 0), sizes, axis=0))

    # Without a time axis, and with padding that counts for nothing.
    if weights is not None:
        shares = add("Mul", of_clips(features("ReduceMean")), weights)
        add("ReduceSum", shares, add.sizes(1), keepdims=0, output=EMBEDDING)
        return
    pools = _POOLS["mean" if spec.frames_per_step is None else spec.head]
    found = [features(pool) for pool in pools]
    if spec.segment is not None:
        found = [
            add(pool, of_clips(rows), add.sizes(1), keepdims=0)
            for pool, rows in zip(pools, found, strict=True)
        ]
    add("Sum", *found, output=EMBEDDING)
