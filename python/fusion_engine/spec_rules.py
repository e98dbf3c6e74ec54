"""What a spec may say: ranges that keep every array of the engine bounded, and fields that agree.

An artifact comes from anywhere, so nothing here trusts it: a number that passes can neither divide
by zero, nor overflow, nor ask for memory without end.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._json import short
from .audio.arrays import MAX_RATE, MIN_RATE
from .frontend.frontend_spec import FrontendSpec

if TYPE_CHECKING:
    from .spec import Spec

# Of layer fusion: a bit for each layer's flag.
MAX_LAYERS = 32
# Of log-mel in one run: 15 days at a hop of 10 ms, so that nothing overflows.
MAX_FRAMES = 2**27
# Of the shortest input, which shorter clips are padded to: samples, and values of log-mel. 256 MiB.
MAX_PADDED = 2**26
# An embedding: 64 MiB.
MAX_DIM = 2**24
# FFT points for each hop: the work for one second of audio.
MAX_OVERLAP = 256

# Of a layer output in 8 bits.
MAX_PEAK = 1e9

# Least and most, both allowed; None is allowed where the field's type has it.
_LAYER = {
    "number": (1, 10**6),
    "channels": (1, 2**20),
    "freq": (1, 2**16),
    "time_pool": (1, MAX_FRAMES),
}
_FRONTEND = {
    "sample_rate": (MIN_RATE, MAX_RATE),
    "win_length": (8, 2**15),
    "n_fft": (8, 2**15),
    "hop_length": (1, 2**16),
    "preemphasis": (0.0, 1.0),
    "n_mels": (1, 1024),
    "f_min": (0.0, MAX_RATE / 2),
    "f_max": (0.0, MAX_RATE / 2),
    # FP32's smallest normal number is 1.2e-38.
    "log_offset": (1e-37, 1e6),
    "mean": (-1e6, 1e6),
    "std": (1e-6, 1e6),
}
_SPEC = {
    "embedding_dim": (1, MAX_DIM),
    "frames_per_step": (1, MAX_FRAMES),
    "step_offset": (-MAX_FRAMES, MAX_FRAMES),
    "chunk_margin": (0, MAX_FRAMES),
    "min_frames": (1, MAX_FRAMES),
    "max_frames": (1, MAX_FRAMES),
    "layer_norm_eps": (1e-30, 1.0),
}
_MAX_NAME = 200
# A submodule's dotted path or a file's name.
_MAX_PATH = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def problems(spec: "Spec") -> list[str]:
    """What is out of range or inconsistent in ``spec``, a few words each."""
    # What follows would divide by what is out of range, or name a thousand layers.
    return list(_ranges(spec)) or [
        *_texts(spec),
        *_layers(spec),
        *_lengths(spec),
        *_mel(spec),
        *_quantization(spec),
    ]


def text_problem(name: str, value: str, most: int = _MAX_PATH, least: int = 1) -> str | None:
    """What is wrong with a text that is shown on terminals."""
    if not least <= len(value) <= most:
        return f"{name} has {len(value)} characters, expected {least} to {most}"
    if _CONTROL.search(value):
        return f"{name} is {short(value)}, expected no control characters"
    return None


def sha256_problem(name: str, value: str) -> str | None:
    """What is wrong with a hex digest."""
    if _SHA256.fullmatch(value):
        return None
    return f"{name} is {short(value)}, expected 64 hexadecimal digits"


def range_problems(
    item: Any, ranges: Mapping[str, tuple[float, float]], prefix: str = ""
) -> Iterator[str]:
    """The fields of ``item`` that are outside of ``ranges``; NaN is outside of all."""
    for name, (least, most) in ranges.items():
        value = getattr(item, name)
        if value is not None and not least <= value <= most:
            yield f"{prefix}{name} is {short(value)}, expected {least} to {most}"


def _ranges(spec: "Spec") -> Iterator[str]:
    if not 1 <= len(spec.layers) <= MAX_LAYERS:
        yield f"it names {len(spec.layers)} layers, expected 1 to {MAX_LAYERS}"
        return
    yield from range_problems(spec, _SPEC)
    for layer in spec.layers:
        yield from range_problems(layer, _LAYER, f"{layer.name}: ")
    yield from range_problems(spec.frontend, _FRONTEND, "frontend.")


def _texts(spec: "Spec") -> Iterator[str]:
    for name, value, most in (
        ("model", spec.model, _MAX_NAME),
        ("producer", spec.producer, _MAX_NAME),
        ("producer_version", spec.producer_version, _MAX_NAME),
        ("frontend.preset", spec.frontend.preset, _MAX_NAME),
        ("weights.source", spec.weights.source, _MAX_PATH),
        *((f"{layer.name}.module", layer.module or "", _MAX_PATH) for layer in spec.layers),
    ):
        problem = text_problem(name, value, most, 0 if name not in ("model", "producer") else 1)
        if problem is not None:
            yield problem
    problem = sha256_problem("weights.sha256", spec.weights.sha256)
    if problem is not None:
        yield problem
    if spec.masked and (spec.segment is not None or spec.frames_per_step is None):
        yield "masked is True, of a model whose inputs have one length or no time axis"
    if spec.masked and any(layer.kind == "vector" for layer in spec.layers):
        yield "masked is True, and a layer is a vector, which pools over the whole input"


def _quantization(spec: "Spec") -> Iterator[str]:
    found, eight_bits = spec.quantization, spec.precision in ("int8", "fp8")
    if eight_bits != (found is not None):
        yield f"precision is {spec.precision} and quantization is {short(found)}"
    if found is None:
        return
    problem = sha256_problem("quantization.sha256", found.sha256)
    if problem is not None:
        yield problem
    if found.clips < 1:
        yield f"quantization.clips is {short(found.clips)}, expected at least 1"
    if len(found.peaks) != len(spec.layers) or not all(0 <= p <= MAX_PEAK for p in found.peaks):
        yield f"quantization.peaks is {short(found.peaks)}, expected one from 0 on for each layer"


def _layers(spec: "Spec") -> Iterator[str]:
    numbers = [layer.number for layer in spec.layers]
    if len(set(numbers)) != len(numbers):
        yield f"a layer occurs twice in {numbers}"
    for layer in spec.layers:
        if layer.kind == "vector" and (layer.freq, layer.time_pool) != (1, 1):
            yield f"{layer.name} is a vector and has a frequency or time axis"
    total = sum(layer.dim for layer in spec.layers)
    if total != spec.embedding_dim:
        yield f"embedding_dim is {spec.embedding_dim}, the layers add up to {total}"


def _lengths(spec: "Spec") -> Iterator[str]:
    step, segment, least = spec.frames_per_step, spec.segment, spec.min_frames
    if least > spec.max_frames:
        yield f"min_frames {least} and max_frames {spec.max_frames} are no range"
    if step is None and any(layer.kind == "map" for layer in spec.layers):
        yield "a map layer needs frames_per_step"
    if step is not None and spec.steps(least) < 1:
        offset = f" with step_offset {spec.step_offset}" if spec.step_offset else ""
        yield f"frames_per_step is {step}{offset}, and the shortest input has {least} frames"
    if segment is not None and {segment.frames} != {least, spec.max_frames}:
        yield (
            f"a segment has {segment.frames} frames, and min_frames {least} and max_frames "
            f"{spec.max_frames} are not the same"
        )
    front = spec.frontend
    if least * front.n_mels > MAX_PADDED or front.samples(least) > MAX_PADDED:
        yield f"min_frames is {least}: every shorter clip would be padded to more than 256 MiB"
    if spec.chunk_margin is not None:
        if segment is not None:
            yield "segments cut a clip, and there is a chunk_margin"
        if step is None or spec.chunk_margin % step:
            yield "chunk_margin is not a multiple of frames_per_step"
        if spec.step_offset:
            yield "chunks have no step_offset"
        if any(layer.kind == "vector" for layer in spec.layers):
            yield "a vector layer pools over the whole clip and has no chunk_margin"


def _mel(spec: "Spec") -> Iterator[str]:
    front: FrontendSpec = spec.frontend
    if front.win_length > front.n_fft:
        yield f"the frontend's window ({front.win_length}) exceeds n_fft ({front.n_fft})"
    if front.n_fft % 2:
        yield f"the frontend's n_fft is {front.n_fft}, expected an even number"
    if front.n_fft > MAX_OVERLAP * front.hop_length:
        yield (
            f"the frontend's hop_length is {front.hop_length}, expected at least n_fft / "
            f"{MAX_OVERLAP}"
        )
    # Closer edges would leave no difference between the mel bins' centres.
    if not front.f_min + 1.0 <= front.f_max <= front.sample_rate / 2:
        yield (
            f"mel range {front.f_min}…{front.f_max} Hz at {front.sample_rate} Hz, expected 1 Hz or "
            "more below half the rate"
        )
