"""The spec: the contract stored inside every artifact, all that the engine knows about a model."""

import json
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from ._version import __version__
from .errors import ArtifactError
from .frontend.spec import FrontendSpec

FORMAT_VERSION = 1
METADATA_KEY = "fusion_engine"

Head = Literal["mean_max", "mean", "max"]
HEADS: tuple[Head, ...] = get_args(Head)

Token = Literal["cls_dist_mean", "cls"]
TOKENS: tuple[Token, ...] = get_args(Token)

_T = TypeVar("_T")


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
        precision: type of the backbone's arithmetic.
        token: AST's token rule.
        layer_norm_eps: AST's LayerNorm epsilon.
        masked: reserved, always ``False``.
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
    precision: Literal["fp32", "tf32", "fp16", "bf16"] = "fp32"
    token: Token | None = None
    layer_norm_eps: float | None = None
    masked: bool = False
    weights: WeightsSource
    producer: str = "fusion_engine"
    producer_version: str = __version__

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise ArtifactError(f"the spec contradicts itself: {'; '.join(problems)}")

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

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, *, where: str = "the spec") -> Self:
        """Parse and validate.

        Raises:
            ArtifactError: not JSON, another format version, or a field that is missing, unknown,
                of a wrong type or in contradiction to another one.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{where}: the spec is damaged (not JSON: {error})") from None
        if not isinstance(data, dict):
            raise ArtifactError(f"{where}: the spec is damaged (expected a JSON object)")
        check_version(data, where)
        try:
            spec: Self = decode(cls, data, "spec")
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
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{where}: spec format version {version!r}, this fusion_engine {__version__} reads "
            f"{FORMAT_VERSION}. Upgrade fusion_engine, or export the model again with "
            "`fusion-engine export`."
        )


def _problems(spec: Spec) -> list[str]:
    """What is inconsistent in ``spec``, one sentence each."""
    out = []
    if not spec.layers:
        out.append("it names no layer")
    numbers = [layer.number for layer in spec.layers]
    if len(set(numbers)) != len(numbers):
        out.append(f"a layer occurs twice in {numbers}")
    for layer in spec.layers:
        if min(layer.number, layer.channels, layer.freq, layer.time_pool) < 1:
            out.append(f"{layer.name} has a number below 1")
        if layer.kind == "vector" and (layer.freq, layer.time_pool) != (1, 1):
            out.append(f"{layer.name} is a vector and has a frequency or time axis")
    total = sum(layer.dim for layer in spec.layers)
    if total != spec.embedding_dim:
        out.append(f"embedding_dim is {spec.embedding_dim}, the layers add up to {total}")
    if not 1 <= spec.min_frames <= spec.max_frames:
        out.append(f"min_frames {spec.min_frames} and max_frames {spec.max_frames} are no range")
    if spec.frames_per_step is None and any(layer.kind == "map" for layer in spec.layers):
        out.append("a map layer needs frames_per_step")
    if spec.frames_per_step is not None and spec.frames_per_step < 1:
        out.append(f"frames_per_step is {spec.frames_per_step}")
    if abs(spec.step_offset) > spec.max_frames:
        most = spec.max_frames
        out.append(f"step_offset is {spec.step_offset}, expected -{most} to {most}")
    elif spec.frames_per_step and spec.steps(spec.min_frames) < 1:
        out.append(f"{spec.min_frames} frames, the fewest, are no frame feature")
    if spec.segment is not None and spec.segment.frames > spec.max_frames:
        out.append("a segment is longer than max_frames")
    if spec.chunk_margin is not None:
        if spec.frames_per_step is None or spec.chunk_margin % spec.frames_per_step:
            out.append("chunk_margin is not a multiple of frames_per_step")
        if spec.step_offset:
            out.append("chunks have no step_offset")
        if any(layer.kind == "vector" for layer in spec.layers):
            out.append("a vector layer pools over the whole clip and has no chunk_margin")
    front = spec.frontend
    if min(front.sample_rate, front.win_length, front.hop_length, front.n_mels) < 1:
        out.append("the frontend has a length below 1")
    if front.win_length > front.n_fft:
        out.append(f"the frontend's window ({front.win_length}) exceeds n_fft ({front.n_fft})")
    if not 0 <= front.f_min < front.f_max <= front.sample_rate / 2:
        out.append(f"mel range {front.f_min}…{front.f_max} Hz at {front.sample_rate} Hz")
    if not front.log_offset > 0:
        out.append(f"log_offset is {front.log_offset}")
    if front.std is not None and not front.std > 0:
        out.append(f"the frontend's std is {front.std}")
    return out


def decode(hint: type[_T] | Any, value: Any, where: str) -> Any:
    """JSON's ``value`` as the type ``hint``, strictly; ``where`` names it in errors.

    Takes dataclasses, tuples of one type, literals, optional types, plain types and ``dict``, whose
    items are not looked at.

    Raises:
        ArtifactError: something is missing, unknown or of another type.
    """
    origin = get_origin(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ArtifactError(f"{where} is {value!r}, expected an object")
        names = [field.name for field in fields(hint)]
        missing = [name for name in names if name not in value]
        unknown = [name for name in value if name not in names]
        if missing or unknown:
            raise ArtifactError(f"{where} lacks {missing} and has unknown fields {unknown}")
        hints = get_type_hints(hint)
        return hint(**{n: decode(hints[n], value[n], f"{where}.{n}") for n in names})
    if origin is tuple:
        if not isinstance(value, list):
            raise ArtifactError(f"{where} is {value!r}, expected a list")
        item = get_args(hint)[0]
        return tuple(decode(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ArtifactError(f"{where} is {value!r}, expected an object")
        return value
    if origin is Literal:
        if value not in get_args(hint):
            raise ArtifactError(f"{where} is {value!r}, expected one of {list(get_args(hint))}")
        return value
    if origin is types.UnionType or type(None) in get_args(hint):
        if value is None:
            return None
        (hint,) = (arg for arg in get_args(hint) if arg is not type(None))
        return decode(hint, value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ArtifactError(f"{where} is {value!r}, expected {hint.__name__}")
    return value
