"""What a loaded network is, and whether it takes and gives what its spec says."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .._json import short
from ..artifact import EMBEDDING, SAMPLES
from ..errors import ArtifactError
from ..spec import LayerSpec, Spec

INPUT = "log_mel"
# Of a masked graph: how many frames of log-mel each of its inputs has.
VALID_FRAMES = "valid_frames"
_FLOAT = ("tensor(float)",)
_TYPES = {INPUT: _FLOAT, VALID_FRAMES: ("tensor(int32)",), SAMPLES: _FLOAT, EMBEDDING: _FLOAT}
_OUTPUT_TYPES = ("tensor(float)", "tensor(float16)")
_MEND = "Export the model again with `fusion-engine export`."

# A number, or whatever a library has for a size that is not fixed: a name, None, -1.
Shape = Sequence[Any]


class Network(Protocol):
    """A loaded artifact whose inputs and outputs are NumPy arrays.

    Attributes:
        spec: the artifact's spec.
        name: library and version.
    """

    spec: Spec
    name: str

    def run(
        self, given: NDArray[np.float32], valid: NDArray[np.int32] | None = None
    ) -> list[NDArray[np.float32]]:
        """Layer outputs in the spec's order, for log-mel [S, 1, T, M]. Safe from many threads.

        A waveform artifact gives the embedding [B, D] alone, for samples [B, N].

        Args:
            given: see above.
            valid: for a masked graph the frames [S] that each input has; ``None``: T.

        Raises:
            ArtifactError: outputs that the spec does not say.
            BackendError: the library failed, memory that ran out included.
        """


def input_names(spec: Spec) -> list[str]:
    """Of the graph's inputs, in their order."""
    return [INPUT, VALID_FRAMES] if spec.masked else [INPUT]


def fed(
    spec: Spec, log_mel: NDArray[np.float32], valid: NDArray[np.int32] | None = None
) -> dict[str, NDArray[Any]]:
    """What a graph's inputs are given, by name; see ``Network.run``."""
    if not spec.masked:
        return {INPUT: log_mel}
    segments, _, frames, _ = log_mel.shape
    return {
        INPUT: log_mel,
        VALID_FRAMES: np.full(segments, frames, np.int32) if valid is None else valid,
    }


def check_graph(spec: Spec, inputs: Sequence[Any], outputs: Sequence[Any], where: str) -> None:
    """Compare ONNX Runtime's descriptions of inputs and outputs with the spec.

    Args:
        spec: the artifact's.
        inputs: what ``InferenceSession.get_inputs`` gives: names, types and shapes.
        outputs: the same of ``get_outputs``.
        where: the artifact, for errors.

    Raises:
        ArtifactError: they differ.
    """
    got = [node.name for node in inputs], [node.name for node in outputs]
    waveform = got[0] == [SAMPLES] and not spec.masked
    expected = input_names(spec), [layer.name for layer in spec.layers]
    if waveform:
        expected = [SAMPLES], [EMBEDDING]
    if got != expected:
        raise ArtifactError(
            f"{where}: the graph has inputs {short(got[0])} and outputs {short(got[1])}, its spec "
            f"says {expected[0]} and {short(expected[1])}. {_MEND}"
        )
    nodes = [*inputs, *outputs]
    shapes = _waveform_problems if waveform else shape_problems
    problems = [
        f"{node.name} is {short(node.type)}, expected {' or '.join(types)}"
        for node in nodes
        if node.type not in (types := _TYPES.get(node.name, _OUTPUT_TYPES))
    ] or list(shapes(spec, {node.name: node.shape for node in nodes}))
    if problems:
        raise ArtifactError(f"{where}: the graph is not what its spec says: {problems[0]}. {_MEND}")


def shape_problems(spec: Spec, shapes: Mapping[str, Shape]) -> Iterator[str]:
    """How shapes by tensor name contradict the spec; sizes that are not fixed fit anything."""
    frames = None if spec.segment is None else spec.segment.frames
    got = shapes[INPUT]
    expected = [None, 1, frames, spec.frontend.n_mels]
    # A graph without a fixed length has one size for every clip.
    if not _fits(got, expected) or _fixed(got[0]) or (frames is None and _fixed(got[2])):
        yield f"{INPUT} is {_text(got)}, expected {_text(expected)}"
    if spec.masked and not _fits(shapes[VALID_FRAMES], [None]):
        yield f"{VALID_FRAMES} is {_text(shapes[VALID_FRAMES])}, expected [?]"
    for layer in spec.layers:
        sizes = [None, layer.channels, None, layer.freq][: 4 if layer.kind == "map" else 2]
        shape = shapes[layer.name]
        if not _fits(shape, sizes) or _fixed(shape[0]):
            yield f"{layer.name} is {_text(shape)}, expected {_text(sizes)}"
        elif layer.kind == "vector" or not _fixed(shape[2]):
            continue
        elif not _enough(spec, layer, shape[2], frames):
            yield f"{layer.name} is {_text(shape)}, and its spec pools time by {layer.time_pool}"


def _waveform_problems(spec: Spec, shapes: Mapping[str, Shape]) -> Iterator[str]:
    for name, sizes in (SAMPLES, [None, None]), (EMBEDDING, [None, spec.embedding_dim]):
        shape = shapes[name]
        if not _fits(shape, sizes) or _fixed(shape[0]):
            yield f"{name} is {_text(shape)}, expected {_text(sizes)}"


def check_embedding(spec: Spec, samples: Shape, outputs: Sequence[Shape]) -> None:
    """As ``check_outputs``, of a waveform graph.

    Args:
        spec: the artifact's.
        samples: shape of the input, [B, N].
        outputs: shape of the embedding.

    Raises:
        ArtifactError: they differ.
    """
    (shape,) = outputs
    sizes = samples[0], spec.embedding_dim
    if not _fits(shape, sizes):
        raise ArtifactError(
            f"{EMBEDDING} is {_text(shape)}, expected {_text(sizes)}: the graph is not what its "
            f"spec says. {_MEND}"
        )


def check_outputs(spec: Spec, log_mel: Shape, outputs: Sequence[Shape]) -> None:
    """Compare what a run gave with the spec: sizes that a graph leaves open.

    Args:
        spec: the artifact's.
        log_mel: shape of the input, [S, 1, T, n_mels].
        outputs: shapes of the layer outputs.

    Raises:
        ArtifactError: they differ, so the graph is not the one that the spec is about.
    """
    segments, _, frames, _ = log_mel
    steps = set()
    for layer, shape in zip(spec.layers, outputs, strict=True):
        sizes = [segments, layer.channels, None, layer.freq][: 4 if layer.kind == "map" else 2]
        if not _fits(shape, sizes):
            raise ArtifactError(
                f"{layer.name} is {_text(shape)}, expected {_text(sizes)}: the graph is not "
                f"what its spec says. {_MEND}"
            )
        if layer.kind == "map":
            steps.add(shape[2] // layer.time_pool)
            if len(steps) > 1 or not _enough(spec, layer, shape[2], frames):
                raise ArtifactError(
                    f"{layer.name} is {_text(shape)} for {frames} frames, and its spec "
                    f"pools time by {layer.time_pool} and says {spec.frames_per_step} frames per "
                    f"step: the graph is not what its spec says. {_MEND}"
                )


def _enough(spec: Spec, layer: LayerSpec, length: int, frames: int | None) -> bool:
    """Whether a map of ``length`` columns holds the frame features of ``frames`` frames."""
    least = spec.min_frames if frames is None else frames
    return length // layer.time_pool >= spec.steps(least)


def _fixed(size: Any) -> bool:
    return isinstance(size, int) and size >= 0


def _fits(got: Shape, expected: Shape) -> bool:
    return len(got) == len(expected) and all(
        want is None or not _fixed(size) or size == want
        for size, want in zip(got, expected, strict=True)
    )


def _text(shape: Shape) -> str:
    sizes = [str(size) if _fixed(size) else "?" for size in shape[:8]]
    return f"[{', '.join(sizes + ['…'] * (len(shape) > 8))}]"
