"""The cases of the GPU suite: from samples to embeddings, first calls, and the kernels alone."""

import functools
import gc
import importlib.util
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fusion_engine import _core
from fusion_engine.export import Backbone, resolve

from . import cases_gpu_kernels, gpu_engines, gpu_timing
from .cases_gpu_kernels import OURS, failing, noise, one_line
from .gpu_engines import MOST_CLIPS, SEED, TUNED_CLIPS, Product, Purpose
from .harness import AnswerCheck, Case, Records, WrongAnswerError
from .machine import usable_cores
from .peers_gpu import Fused, HostToHost, OnnxRuntimePeer, checked_state

logger = logging.getLogger(__name__)

THREADS = usable_cores()
MODELS = {"cnn14": "CNN14-Fusion", "vggish": "VGGish-Fusion", "ast": "AST-Fusion"}
SECONDS = (1, 10)
BATCHES = (8, TUNED_CLIPS, MOST_CLIPS)
HOST_THREADS = 2
FIRST_MODEL, FIRST_CALLS = "cnn14", 10
# Largest difference to FP64, as a fraction of the largest value. FP32 keeps FP32 throughout (TF32
# is off); the rest bounds faults, not the rounding of half precision, which tests measure.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}

EAGER, COMPILED = "PyTorch eager", "torch.compile max-autotune"
ONNX_PEER = "ONNX Runtime CUDA FP32, PyTorch around it"


@dataclass(frozen=True)
class GpuContender:
    """Somebody who embeds a batch of clips of one length.

    Args:
        precision: see ``TOLERANCES``.
        device: samples [B, N] on the GPU to embeddings [B, D] there.
        host: the same from and to the host.
        batches: those of the throughput sweep.
        threads: that call at once for the throughput from the host; 0: it is not measured.
        figures: what else is worth keeping of clips [B, N]; called after the latency was timed.
    """

    precision: str
    device: Callable[[torch.Tensor], torch.Tensor]
    host: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    batches: tuple[int, ...]
    threads: int
    figures: Callable[[NDArray[np.float32]], dict[str, Any]] = lambda samples: {}


@functools.cache
def weighted(model: str, layers: tuple[int, ...]) -> tuple[Backbone, dict[str, torch.Tensor]]:
    """A model with its random weights."""
    return checked_state(resolve(model), layers, SEED)


@dataclass(frozen=True)
class GpuJob:
    """What is embedded: clips of one length by one model, and the answers in FP64."""

    model: str
    seconds: int
    folder: Path

    @property
    def backbone(self) -> tuple[Backbone, dict[str, torch.Tensor]]:
        return weighted(self.model, resolve(self.model).default_layers)

    def network(self, dtype: torch.dtype) -> Fused:
        backbone, state = self.backbone
        return Fused(backbone, state, backbone.default_layers, dtype).eval()

    def samples(self, batch: int) -> NDArray[np.float32]:
        return noise(self.backbone[0].frontend, batch, self.seconds)

    @functools.cached_property
    def exact(self) -> torch.Tensor:
        """Embeddings of the different clips, in FP64."""
        model = self.network(torch.float64).cuda()
        clips = torch.from_numpy(self.samples(8)).cuda()
        search = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = False  # would take longer than these few runs
        try:
            with torch.inference_mode():
                return torch.cat([model(clip[None]) for clip in clips])
        finally:
            torch.backends.cudnn.benchmark = search

    def check(self, embedder: GpuContender, batch: int) -> AnswerCheck:
        """Both ways of an embedder, the worse one."""
        samples = self.samples(batch)
        exact = torch.stack([self.exact[index % 8] for index in range(batch)])
        measure, checks = "largest difference / largest value", []
        for answer in (
            partial(embedder.device, torch.from_numpy(samples).cuda()),
            lambda: torch.from_numpy(embedder.host(samples)).cuda(),
        ):
            # At once: a CUDA graph's next replay may overwrite the answer.
            tolerance = TOLERANCES[embedder.precision]
            checks.append(cases_gpu_kernels.compare(answer(), exact, measure, tolerance))
        wrong = [check for check in checks if not check.passed]
        return wrong[0] if wrong else max(checks, key=lambda check: check.error)

    @property
    def operations(self) -> float:
        """Floating-point operations of one clip."""
        return operations(self.model, self.seconds)


def operations(model: str, seconds: float) -> float:
    """Of one clip: CNN14 per second, VGGish and AST per segment."""
    backbone = resolve(model)
    if backbone.segment is None:
        return 40e9 * seconds / 10
    frames = backbone.frontend.frames(round(seconds * backbone.frontend.sample_rate))
    if backbone.segment.last == "drop":
        return 1.7e9 * max(1, frames // backbone.segment.frames)
    return 261e9 * -(-frames // backbone.segment.frames)


def missing() -> str | None:
    """Why the suite cannot run here."""
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU"
    if not _core.cuda_enabled:
        return "fusion_engine was built without CUDA kernels: install it with FUSION_ENGINE_CUDA=ON"
    return None


def cases() -> tuple[Case, ...]:
    """All of them: the ones that need least come first."""
    return (
        *cases_gpu_kernels.cases(),
        *(
            Case(
                f"gpu-{model}-{seconds}s",
                f"{title}, {seconds} s",
                partial(_records, partial(embed, model, seconds)),
            )
            for model, title in MODELS.items()
            for seconds in reversed(SECONDS)
        ),
        Case("gpu-first-call", "CNN14-Fusion, batch 1, first calls", partial(_records, first_call)),
    )


def _records(produce: Callable[[Path], Iterator[dict[str, Any]]], folder: Path) -> list[Records]:
    return [Records(partial(failing, OURS, partial(_alone, partial(produce, folder))))]


def _alone(produce: Callable[[], Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """With PyTorch's settings for it, and with nothing kept."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield from produce()
    finally:
        torch.compiler.reset()
        gc.collect()
        torch.cuda.empty_cache()


def embed(model: str, seconds: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Latency at batch 1 and throughput at the best batch, of us and of the peers."""
    job = GpuJob(model, seconds, folder)
    found: dict[str, dict[str, Any]] = {}
    failure = None
    try:
        with ExitStack() as stack:
            latency(job, ready(job, "latency", 1, found, stack), found)
        with ExitStack() as stack:
            throughput(job, ready(job, "throughput", BATCHES[0], found, stack), found)
    except Exception as error:  # raised again below, after what was found before
        failure = error
    yield from ({"contender": name, **record} for name, record in found.items())
    if failure is not None:
        raise failure


def ready(
    job: GpuJob, purpose: Purpose, batch: int, found: dict[str, dict[str, Any]], stack: ExitStack
) -> dict[str, GpuContender]:
    """Those that run here and whose answers are right; ``found`` says why the others are not."""
    able: dict[str, GpuContender] = {}
    for name, (reason, make) in contenders(job, purpose, stack).items():
        record = found.setdefault(name, {})
        if {"not_measured", "failed"} & record.keys():
            continue
        if reason is not None:
            record["not_measured"] = reason
            continue
        try:
            embedder = make()
            check = job.check(embedder, embedder.batches[0] if purpose == "throughput" else batch)
            if not check.passed:
                raise WrongAnswerError(f"{check.measure} is {check.error:.3g}")
        except Exception as error:  # the others go on; the run's exit status tells
            record["failed"] = one_line(error)
            logger.exception("%s, %s s: %s", job.model, job.seconds, name)
        else:
            record.setdefault("check", {})[purpose] = asdict(check)
            able[name] = embedder
    return able


def contenders(
    job: GpuJob, purpose: Purpose, stack: ExitStack
) -> dict[str, tuple[str | None, Callable[[], GpuContender]]]:
    """Ours and the peers: why one cannot run here, and what makes it."""
    chosen: dict[str, tuple[str | None, Callable[[], GpuContender]]] = {}
    for product in gpu_engines.products():
        chosen[product.name] = (product.missing(), partial(ours, job, product, purpose, stack))
    for name, dtype in (("FP32", torch.float32), ("FP16", torch.float16)):
        chosen[f"{EAGER} {name}"] = (None, partial(eager, job, dtype))
    # A compilation per shape takes up to a minute: one batch, of the longer clips.
    if purpose == "latency" or job.seconds == max(SECONDS):
        chosen[f"{COMPILED} FP16"] = (compiler_missing(), partial(compiled, job))
    chosen[ONNX_PEER] = (gpu_engines.onnxruntime_missing(), partial(onnx_peer, job))
    return chosen


def ours(job: GpuJob, product: Product, purpose: Purpose, stack: ExitStack) -> GpuContender:
    """The engine, open until the stack closes."""
    engine = stack.enter_context(product.open(job.model, purpose, job.folder))
    return GpuContender(
        product.precision,
        gpu_engines.on_device(engine),
        engine.embed,
        BATCHES,
        HOST_THREADS,
        partial(gpu_engines.stages, engine),
    )


def eager(job: GpuJob, dtype: torch.dtype) -> GpuContender:
    """Weights and activations in one type, channels last."""
    call = without_gradients(job.network(dtype).cuda())
    return GpuContender(
        str(dtype).removeprefix("torch."), call, HostToHost(call), BATCHES, HOST_THREADS
    )


def compiled(job: GpuJob) -> GpuContender:
    """From samples to embeddings in one compiled graph, replayed as CUDA graphs."""
    model = torch.compile(
        job.network(torch.float16).cuda(), mode="max-autotune", fullgraph=True, dynamic=False
    )
    call = without_gradients(model)

    def device(samples: torch.Tensor) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # the last result may be overwritten
        return call(samples)

    # Its CUDA graphs belong to the thread that recorded them.
    return GpuContender("float16", device, HostToHost(device), (TUNED_CLIPS,), 0)


def onnx_peer(job: GpuJob) -> GpuContender:
    """A session as most people open one, in FP32."""
    artifact = gpu_engines.artifact(job.model, "latency", job.folder)
    providers = [("CUDAExecutionProvider", {"use_tf32": 0}), "CPUExecutionProvider"]
    peer = OnnxRuntimePeer(artifact, job.network(torch.float32).cuda(), providers)
    call = without_gradients(peer)
    return GpuContender("float32", call, HostToHost(call), BATCHES, HOST_THREADS)


def compiler_missing() -> str | None:
    """Why ``torch.compile`` cannot make code for a GPU."""
    if importlib.util.find_spec("triton") is None:
        return "triton, which torch.compile needs, is not installed: pip install triton"
    return None


def without_gradients(
    model: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor], torch.Tensor]:
    """``model`` in inference mode."""

    def call(samples: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return model(samples)

    return call


def latency(job: GpuJob, able: dict[str, GpuContender], found: dict[str, dict[str, Any]]) -> None:
    """Batch 1, in turn; ours beside each peer, round by round."""
    samples = job.samples(1)
    resident = torch.from_numpy(samples).cuda()
    for key, calls, time_one in (
        (
            "host_ms",
            {n: partial(e.host, samples) for n, e in able.items()},
            gpu_timing.wall_seconds,
        ),
        (
            "device_ms",
            {n: partial(e.device, resident) for n, e in able.items()},
            gpu_timing.event_seconds,
        ),
    ):
        taken = gpu_timing.rounds(calls, time_one)
        for name, part in taken.items():
            found[name][key] = gpu_timing.percentiles(part, 1e3)
            if name.startswith(OURS):
                found[name].setdefault("speed_up", {})[key] = {
                    peer: gpu_timing.speed_up(part, theirs)
                    for peer, theirs in taken.items()
                    if not peer.startswith(OURS)
                }
    for name, embedder in able.items():
        try:
            found[name] |= embedder.figures(samples)
        except Exception as error:  # what was timed stands without them
            found[name]["figures_failed"] = one_line(error)
            logger.exception("%s, %s s: %s", job.model, job.seconds, name)
        seconds = 1e-3 * found[name]["device_ms"]["p50"]
        found[name]["latency_tflops"] = gpu_timing.teraflops(job.operations, seconds)


def throughput(
    job: GpuJob, able: dict[str, GpuContender], found: dict[str, dict[str, Any]]
) -> None:
    """A sweep on the device; then from the host with several threads at the best batch."""
    for name, embedder in able.items():
        try:
            found[name] |= swept(job, embedder)
        except Exception as error:  # out of memory, say: the others go on
            found[name]["failed"] = one_line(error)
            logger.exception("%s, %s s: %s", job.model, job.seconds, name)


def swept(job: GpuJob, embedder: GpuContender) -> dict[str, Any]:
    """One contender's throughput."""
    sweep = {
        batch: gpu_timing.throughput_on_device(
            partial(embedder.device, torch.from_numpy(job.samples(batch)).cuda()), batch
        )
        for batch in embedder.batches
    }
    best = max(sweep, key=lambda batch: sweep[batch])
    record: dict[str, Any] = {
        "sweep_clips_per_s": {str(batch): rate for batch, rate in sweep.items()},
        "device_clips_per_s": sweep[best],
        "batch": best,
        "throughput_tflops": gpu_timing.teraflops(job.operations * sweep[best], 1.0),
    }
    if embedder.threads:
        record["host_clips_per_s"] = gpu_timing.throughput_on_host(
            partial(embedder.host, job.samples(best)), best, embedder.threads
        )
    return record


def first_call(folder: Path) -> Iterator[dict[str, Any]]:
    """Of a 10 s clip, and then of a 1 s clip, where CUDA itself is up."""
    jobs = [GpuJob(FIRST_MODEL, seconds, folder) for seconds in (10, 1)]
    for product in gpu_engines.products():
        for warmup in ((), ((1, 10.0), (1, 1.0))):
            name = f"{product.name}{', warmed up' if warmup else ''}"
            reason = product.missing()
            if reason is not None:
                yield {"contender": name, "not_measured": reason}
                continue
            product.file(FIRST_MODEL, "latency", folder)  # a build is not part of it
            start = time.perf_counter()
            with product.open(FIRST_MODEL, "latency", folder, warmup=warmup) as engine:
                spent = 1e3 * (time.perf_counter() - start)
                yield {"contender": name, "open_ms": spent, **first_times(engine.embed, jobs)}
    for name, make in (
        (f"{EAGER} FP16", partial(eager, jobs[0], torch.float16)),
        (f"{COMPILED} FP16", partial(compiled, jobs[0])),
    ):
        reason = compiler_missing() if name.startswith(COMPILED) else None
        if reason is not None:
            yield {"contender": name, "not_measured": reason}
            continue
        start = time.perf_counter()
        embedder = make()
        spent = 1e3 * (time.perf_counter() - start)
        yield {"contender": name, "open_ms": spent, **first_times(embedder.host, jobs)}


def first_times(
    call: Callable[[NDArray[np.float32]], Any], jobs: list[GpuJob]
) -> dict[str, dict[str, float]]:
    """Milliseconds of the first, second and last call of each length, one after the other."""
    times = {}
    for job in jobs:
        samples = job.samples(1)
        spent = [1e3 * gpu_timing.wall_seconds(partial(call, samples)) for _ in range(FIRST_CALLS)]
        times[f"{job.seconds}s_ms"] = {"first": spent[0], "second": spent[1], "last": spent[-1]}
    return times
