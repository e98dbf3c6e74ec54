"""The CUDA kernels alone, on a cold cache, beside a copy of as many bytes and beside PyTorch."""

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusion_engine import _core
from fusion_engine.export import resolve
from fusion_engine.frontend import FrontendSpec, frontend_tables
from tests import signals

from . import gpu_timing, peers
from .harness import AnswerCheck, Case, Records, WrongAnswerError
from .peers_gpu import LogMel

logger = logging.getLogger(__name__)

OURS, COPY = "fusion_engine", "device-to-device copy"
EVENTS = "nothing between two events"
BATCHES = (1, 64)
SECONDS = 10
# Sums of 31 frames in FP32 against FP64, as a fraction of the largest value.
FUSION = 1e-6
# An FP32 spectrogram of noise against FP64, in units of the log-mel (dB or nepers).
LOG_MEL = 2e-3
FORMS = {
    "textbook": peers.fuse_textbook,
    "reduced before flattening": peers.fuse_reduced_first,
}
# Layouts as the backbones give them: ONNX Runtime FP32 NCHW, TensorRT FP16 NHWC.
LAYOUTS = {
    "fp32-nchw": (torch.float32, torch.contiguous_format),
    "fp16-nhwc": (torch.float16, torch.channels_last),
}


@dataclass
class Work:
    """A kernel's launch and what it has to move.

    Args:
        launch: queues it on PyTorch's current stream.
        outputs: what it writes.
        moved: bytes of its inputs and outputs.
    """

    launch: Callable[[], None]
    outputs: tuple[torch.Tensor, ...]
    moved: int


def cases() -> tuple[Case, ...]:
    """All of them, in the order of the report."""
    fusion_cases = [
        Case(
            f"gpu-fusion-{layout}-b{batch}",
            f"fusion kernel, CNN14's layers 3 + 6 of {SECONDS} s, batch {batch}, "
            f"{layout.replace('-', ' ').upper()}",
            partial(_one, partial(fusion, layout, batch)),
        )
        for batch in BATCHES
        for layout in LAYOUTS
    ]
    frontend_cases = [
        Case(
            f"gpu-frontend-{model}-b{batch}",
            f"frontend kernel, {model} {SECONDS} s, batch {batch}",
            partial(_one, partial(frontend, model, batch)),
        )
        for model in ("cnn14", "vggish", "ast")
        for batch in BATCHES
    ]
    return (*fusion_cases, *frontend_cases)


def _one(produce: Callable[[], Iterator[dict[str, Any]]], folder: Path) -> list[Records]:
    return [Records(partial(failing, OURS, produce))]


def failing(
    contender: str, produce: Callable[[], Iterator[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """What ``produce`` gives, and its error as a record, so that the cases after it still run."""
    try:
        yield from produce()
    except Exception as error:  # the run's exit status tells
        logger.exception("%s failed", contender)
        yield {"contender": contender, "failed": one_line(error)}


def one_line(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def fusion(layout: str, batch: int) -> Iterator[dict[str, Any]]:
    """Layer outputs to embeddings."""
    maps, pools = fusion_inputs(layout, batch)
    work = fusion_work(maps, pools)
    work.launch()
    exact = peers.fuse_reduced_first([x.double() for x in maps], pools)
    check = compare(work.outputs[0], exact, "largest difference / largest value", FUSION)
    contenders = {
        f"PyTorch, {name}": partial(_without_gradients, form, maps, pools)
        for name, form in FORMS.items()
    }
    yield from measure(work, check, contenders)


def frontend(model: str, batch: int) -> Iterator[dict[str, Any]]:
    """Samples to log-mel."""
    spec = resolve(model).frontend
    samples = torch.from_numpy(noise(spec, batch)).cuda()
    work = frontend_work(spec, samples)
    work.launch()
    exact = LogMel(spec, torch.float64).cuda()(samples)
    check = compare(
        work.outputs[0],
        exact,
        "largest difference in units of the log-mel",
        LOG_MEL,
        relative=False,
    )
    theirs = LogMel(spec, torch.float32).cuda()
    contenders = {"PyTorch, cuFFT": partial(_without_gradients, theirs, samples)}
    reason = "torchlibrosa has PANNs' frontend alone"
    if model == "cnn14":
        reason = "torchlibrosa is not installed: pip install torchlibrosa"
        if importlib.util.find_spec("torchlibrosa") is not None:
            contenders["torchlibrosa"] = partial(_without_gradients, _torchlibrosa(spec), samples)
            reason = ""
    yield from measure(work, check, contenders)
    if reason:
        yield {"contender": "torchlibrosa", "not_measured": reason}


def fusion_inputs(layout: str, batch: int) -> tuple[list[torch.Tensor], list[int]]:
    """Seeded maps [B, C, T, F] of CNN14-Fusion's layers, and their time pools."""
    backbone = resolve("cnn14")
    frames = backbone.frontend.frames(SECONDS * backbone.frontend.sample_rate)
    chosen = [backbone.layers[number] for number in backbone.default_layers]
    step = backbone.frames_per_step(backbone.default_layers)
    assert step is not None  # its layers are maps
    dtype, memory_format = LAYOUTS[layout]
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(
            (batch, layer.channels, frames // (step // layer.time_pool), layer.freq),
            generator=generator,
        )
        .cuda()
        .to(dtype, memory_format=memory_format)
        for layer in chosen
    ]
    return maps, [layer.time_pool for layer in chosen]


def fusion_work(maps: Sequence[torch.Tensor], pools: Sequence[int]) -> Work:
    """The kernel on these maps, on the device where they are."""
    clips = len(maps[0])
    dim = sum(x.shape[1] * x.shape[3] for x in maps)
    embedding = torch.full((clips, dim), torch.nan, device=maps[0].device)
    flags = torch.zeros(clips, dtype=torch.int32, device=embedding.device)
    layers = [
        _core.DeviceLayer(
            x.data_ptr(),
            dtype=str(x.dtype).removeprefix("torch."),
            shape=x.shape,
            strides=x.stride(),
            time_pool=pool,
        )
        for x, pool in zip(maps, pools, strict=True)
    ]
    stream = _stream()

    def launch() -> None:
        _core.fuse_cuda(
            layers,
            clips=clips,
            embedding=embedding.data_ptr(),
            flags=flags.data_ptr(),
            stream=stream,
        )

    return Work(launch, (embedding, flags), sum(x.nbytes for x in (*maps, embedding, flags)))


def frontend_work(spec: FrontendSpec, samples: torch.Tensor) -> Work:
    """The kernel on these samples [B, N], on the device where they are."""
    frontend = frontend_tables(spec)
    clips, length = samples.shape
    frames = spec.frames(length)
    device = samples.device
    tables = torch.frombuffer(bytearray(frontend.data), dtype=torch.uint8).to(device)
    out = torch.full((clips, frames, spec.n_mels), torch.nan, device=device)
    flags = torch.zeros(clips, dtype=torch.int32, device=device)
    stream = _stream()

    def launch() -> None:
        _core.log_mel_cuda(
            frontend,
            tables=tables.data_ptr(),
            samples=samples.data_ptr(),
            dtype="float32",
            clips=clips,
            stride=length,
            frames=frames,
            out=out.data_ptr(),
            out_frames=frames,
            flags=flags.data_ptr(),
            stream=stream,
        )

    return Work(launch, (out, flags), sum(x.nbytes for x in (samples, tables, out, flags)))


def measure(
    work: Work, check: AnswerCheck, contenders: Mapping[str, Callable[[], Any]]
) -> Iterator[dict[str, Any]]:
    """A record of the kernel with the copy's time, and one of each contender.

    Raises:
        WrongAnswerError: the check failed, or the kernel flagged what it read.
    """
    if not check.passed or any(flags.any() for flags in work.outputs[1:]):
        raise WrongAnswerError(f"{check.measure} is {check.error:.3g}, or a value was flagged")
    source = torch.ones(work.moved // 2, dtype=torch.uint8).cuda()
    target = torch.empty_like(source)
    taken = gpu_timing.cold_rounds(
        {
            OURS: work.launch,
            COPY: lambda: target.copy_(source),
            EVENTS: lambda: None,
            **contenders,
        }
    )
    spent = {name: gpu_timing.percentiles(part, 1e6) for name, part in taken.items()}
    own, copied = (1e-6 * spent[name]["p50"] for name in (OURS, COPY))
    yield {
        "contender": OURS,
        "check": asdict(check),
        "kernel_us": spent[OURS],
        "copy_us": spent[COPY],
        "events_us": spent[EVENTS],
        **gpu_timing.bandwidth(work.moved, own, copied),
    }
    for name in contenders:
        faster = gpu_timing.speed_up(taken[OURS], taken[name])
        yield {"contender": name, "kernel_us": spent[name], "speed_up_of_ours": faster}


def compare(
    got: torch.Tensor, exact: torch.Tensor, measure: str, tolerance: float, relative: bool = True
) -> AnswerCheck:
    """A check of the largest difference, of any device's arrays."""
    difference = (got.double() - exact).abs().max()
    scale = exact.abs().max() if relative else 1.0
    return AnswerCheck(measure, float(difference / scale), tolerance)


def noise(spec: FrontendSpec, batch: int, seconds: float = SECONDS) -> np.ndarray[Any, Any]:
    """Samples [B, N]; eight different clips, repeated."""
    clips = [signals.noise(seconds, spec.sample_rate, seed) for seed in range(min(batch, 8))]
    return np.stack([clips[index % len(clips)] for index in range(batch)])


def _stream() -> int:
    handle: int = torch.cuda.current_stream().cuda_stream
    return handle


def _without_gradients(function: Callable[..., Any], *given: Any) -> Any:
    with torch.inference_mode():
        return function(*given)


def _torchlibrosa(spec: FrontendSpec) -> Callable[[torch.Tensor], torch.Tensor]:
    """PANNs' own frontend modules, with the settings of Cnn14."""
    from torchlibrosa.stft import LogmelFilterBank, Spectrogram

    modules = torch.nn.Sequential(
        Spectrogram(
            n_fft=spec.n_fft,
            hop_length=spec.hop_length,
            win_length=spec.win_length,
            window="hann",
            center=True,
            pad_mode="reflect",
            freeze_parameters=True,
        ),
        LogmelFilterBank(
            sr=spec.sample_rate,
            n_fft=spec.n_fft,
            n_mels=spec.n_mels,
            fmin=spec.f_min,
            fmax=spec.f_max,
            ref=1.0,
            amin=spec.log_offset,
            top_db=None,
            freeze_parameters=True,
        ),
    )
    return modules.cuda().eval()
