"""The spec: the contract stored inside every artifact, all that the engine knows about a model."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

from ._json import decode, parse, short
from ._version import __version__
from .errors import ArtifactError
from .frontend.frontend_spec import FrontendSpec
from .spec_rules import problems

FORMAT_VERSION = 1
METADATA_KEY = "fusion_engine"
# Characters of a spec's JSON; the longest that is allowed needs half of them.
MAX_JSON = 2**20

# Fields of a spec that change no embedding's meaning.
_MEANINGLESS = (
    "format_version",
    "chunk_margin",
    "min_frames",
    "max_frames",
    "precision",
    "quantization",
    "masked",
    "producer",
    "producer_version",
)

# Fields that came later, and what artifacts without them mean.
_LATER = {"masked": False, "quantization": None}

Head = Literal["mean_max", "mean", "max"]
HEADS: tuple[Head, ...] = get_args(Head)

Token = Literal["cls_dist_mean", "cls"]
TOKENS: tuple[Token, ...] = get_args(Token)


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One output of the backbone.

    Args:
        number: the paper's number of the layer, from 1; the graph output is ``layer_{number}``.
        kind: ``map`` is [B, channels, T_l, freq], ``vector`` is [B, channels].
        channels: C of a map, the length of a vector.
        freq: F of a map, 1 for a vector.
        time_pool: window and stride of Eq. 1's max-pool over T_l, 1 for a vector.
        module: name of the submodule, where any torch module was exported.
    """

    number: int
    kind: Literal["map", "vector"]
    channels: int
    freq: int = 1
    time_pool: int = 1
    module: str | None = None

    @property
    def name(self) -> str:
        """Name of the graph output."""
        return f"layer_{self.number}"

    @property
    def dim(self) -> int:
        """Length of the layer's part of a frame feature: C·F."""
        return self.channels * self.freq


@dataclass(frozen=True, kw_only=True)
class SegmentRule:
    """How a clip becomes fixed-length segments.

    Args:
        frames: frames of log-mel per segment; segments do not overlap.
        last: what happens to an incomplete last segment; a clip shorter than one is always padded.
    """

    frames: int
    last: Literal["drop", "pad"]


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """Where the weights came from: ``pretrained``, ``random:SEED`` or a file's name."""

    source: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How the scales of an 8-bit artifact were found.

    Args:
        method: which of the activations seen is the largest that a scale has room for.
        clips: how many were seen.
        sha256: of their samples.
        peaks: largest |value| of each layer output, in the spec's order.
    """

    method: Literal["percentile", "entropy", "minmax"]
    clips: int
    sha256: str
    peaks: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Everything the engine needs to know about an artifact.

    Args:
        format_version: version of this format.
        model: name of the backbone, for example ``cnn14_16k``.
        layers: the graph's outputs, in the order of Eq. 2.
        head: pooling over time of the embedding when the caller names none.
        embedding_dim: D, the sum of the layers' dims.
        frontend: how samples become log-mel.
        frames_per_step: frames of log-mel per frame feature; ``None`` for a model without a time
            axis, whose embedding is the layers' concatenation.
        step_offset: T_o = (T + step_offset) // frames_per_step; above 0 where convolutions round
            up, below 0 where they have no padding.
        segment: the segment rule of a fixed-input backbone, ``None`` where T is dynamic.
        chunk_margin: frames of context that make a chunk of a long clip exact; ``None`` where
            a clip cannot be cut (a layer pools over the whole clip, or segments do the cutting).
        min_frames: the fewest frames the graph takes.
        max_frames: the most frames the graph takes in one run.
        precision: type of the backbone's arithmetic: of ``int8`` and ``fp8``, the type of what goes
            into convolutions and products with weights.
        quantization: of 8 bits, how; ``None`` for the other precisions.
        token: AST's token rule.
        layer_norm_eps: AST's LayerNorm epsilon.
        masked: the graph takes ``valid_frames`` too, so that clips of different lengths share a
            batch, each with the answer that it has alone.
        weights: where the weights came from.
        producer: the program that wrote the artifact.
        producer_version: its version.
    """

    format_version: int = FORMAT_VERSION
    model: str
    layers: tuple[LayerSpec, ...]
    head: Head = "mean_max"
    embedding_dim: int
    frontend: FrontendSpec
    frames_per_step: int | None
    step_offset: int = 0
    segment: SegmentRule | None = None
    chunk_margin: int | None = None
    min_frames: int
    max_frames: int
    precision: Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"] = "fp32"
    quantization: Quantization | None = None
    token: Token | None = None
    layer_norm_eps: float | None = None
    masked: bool = False
    weights: WeightsSource
    producer: str = "fusion_engine"
    producer_version: str = __version__

    def __post_init__(self) -> None:
        found = problems(self)
        if found:
            raise ArtifactError(f"the spec is wrong: {'; '.join(found)}")

    @property
    def frame_rate(self) -> float | None:
        """Frame features per second; ``None`` where a layer pools over the whole clip."""
        step = self.frames_per_step
        if self.segment is None:
            if step is None or any(layer.kind == "vector" for layer in self.layers):
                return None
        elif step is None:
            step = self.segment.frames
        return self.frontend.sample_rate / (self.frontend.hop_length * step)

    def steps(self, frames: int) -> int:
        """T_o, the frame features of ``frames`` frames of log-mel; 1 without a time axis."""
        step = self.frames_per_step
        return 1 if step is None else (frames + self.step_offset) // step

    @property
    def space(self) -> str:
        """The embedding space, 16 hex digits: of all that changes what an embedding means.

        Only embeddings of one space may be compared. Precision, lengths and library do not change
        it: they change how exact an embedding is, and what clips are taken.
        """
        # Without what is None, so that a field that is new and not used changes nothing.
        meaning = {
            name: value
            for name, value in asdict(self).items()
            if value is not None and name not in _MEANINGLESS
        }
        meaning["weights"] = self.weights.sha256
        del meaning["frontend"]["preset"]
        text = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, *, where: str = "the spec") -> Self:
        """Parse and validate.

        Raises:
            ArtifactError: not JSON, another format version, or a field that is missing, unknown,
                of a wrong type, out of range or in contradiction to another one.
        """
        try:
            data = parse(text, most=MAX_JSON)
        except ValueError as error:
            raise ArtifactError(f"{where}: the spec is damaged (not JSON: {error})") from None
        if not isinstance(data, dict):
            raise ArtifactError(f"{where}: the spec is damaged (expected a JSON object)")
        check_version(data, where)
        try:
            spec: Self = decode(cls, _LATER | data, "spec")
        except ArtifactError as error:
            raise ArtifactError(
                f"{where}: {error}. Export the model again with `fusion-engine export`."
            ) from None
        return spec


def check_version(data: Mapping[str, Any], where: str) -> None:
    """Refuse a spec of another format version; only of this one is known what else is in it.

    Raises:
        ArtifactError: it is another one.
    """
    version = data.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ArtifactError(
            f"{where}: spec format version {short(version)}, this fusion_engine {__version__} "
            f"reads {FORMAT_VERSION}. Upgrade fusion_engine, or export the model again with "
            "`fusion-engine export`."
        )
