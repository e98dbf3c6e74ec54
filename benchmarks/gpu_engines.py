"""Our own contenders on a GPU: artifacts and plans, made once per run, and engines on them.

Where no TensorRT runs, the network of PyTorch that the tests have takes its place.
"""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fusion_engine import Engine
from fusion_engine.engine.cuda.slots import MemoryLayout
from fusion_engine.engine.onnx import cuda_missing
from fusion_engine.engine.precision import Precision
from fusion_engine.engine.tensorrt import build
from fusion_engine.errors import BackendError
from fusion_engine.export import export, resolve
from tests.engine.cuda.torch_network import open_with_torch, write_weights
from tests.gpu import tensorrt_missing

from . import gpu_timing
from .report_gpu import STAND_IN

Purpose = Literal["latency", "throughput"]

SEED = 0
SHORTEST, LONGEST = 1.0, 10.0  # seconds
MOST_CLIPS, TUNED_CLIPS = 128, 64


@dataclass(frozen=True)
class Product:
    """fusion_engine with one library and precision.

    Args:
        name: as the report shows it.
        precision: the type of the backbone, ``float32``, ``float16`` or ``bfloat16``.
        missing: why it cannot run here; ``None`` where it can be tried.
        file: the artifact or plan of a model, made in the folder of this run where it is not there.
    """

    name: str
    precision: str
    missing: Callable[[], str | None]
    file: Callable[[str, Purpose, Path], Path]

    def open(self, model: str, purpose: Purpose, folder: Path, **options: Any) -> Engine:
        """An engine on the first GPU."""
        return Engine(self.file(model, purpose, folder), device="cuda", **options)


@dataclass(frozen=True)
class StandIn(Product):
    """fusion_engine with PyTorch's network in the place of a plan's."""

    def open(self, model: str, purpose: Purpose, folder: Path, **options: Any) -> Engine:
        return open_with_torch(self.file(model, purpose, folder), "fp16", **options)


def products() -> tuple[Product, ...]:
    """In the order of the report."""
    missing = tensorrt_missing()
    return (
        *(
            Product(
                f"fusion_engine, TensorRT {precision.upper()}",
                dtype,
                lambda: missing,
                functools.partial(plan, precision),
            )
            for precision, dtype in _PRECISIONS
        ),
        *([] if missing is None else [StandIn(STAND_IN, "float16", lambda: None, tensors)]),
        Product("fusion_engine, ONNX Runtime FP32", "float32", onnxruntime_missing, artifact),
    )


_PRECISIONS: tuple[tuple[Precision, str], ...] = (("fp16", "float16"), ("bf16", "bfloat16"))


def onnxruntime_missing() -> str | None:
    """Why ONNX Runtime cannot use the GPU."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed: pip install onnxruntime-gpu"
    try:
        reason = cuda_missing("cuda")
    except BackendError as error:
        return str(error)
    return None if reason is None else f"{reason}: pip install onnxruntime-gpu"


def artifact(model: str, purpose: Purpose, folder: Path) -> Path:
    """The model's fusion with random weights, exported once per run; one for all purposes."""
    path = folder / f"{model}.onnx"
    if not path.exists():
        export(model, path, weights=f"random:{SEED}")
    return path


def tensors(model: str, purpose: Purpose, folder: Path) -> Path:
    """The tensors of the same artifact, without its graph."""
    path = folder / f"{model}-tensors.onnx"
    return path if path.exists() else write_weights(path, model, weights=f"random:{SEED}")


def plan(precision: Precision, model: str, purpose: Purpose, folder: Path) -> Path:
    """Its plan for one clip of up to 10 s or for many, built once per run."""
    path = folder / f"{model}-{precision}-{purpose}.plan"
    if not path.exists():
        build(
            artifact(model, purpose, folder), path, precision=precision, **profile(model, purpose)
        )
    return path


def profile(model: str, purpose: Purpose) -> dict[str, Any]:
    """Shapes for ``build``: clips of 1 to 10 s, tuned for 10 s."""
    backbone = resolve(model)
    frames = backbone.frontend.frames(round(LONGEST * backbone.frontend.sample_rate))
    segments = 1
    if backbone.segment is not None and backbone.segment.last == "drop":
        segments = frames // backbone.segment.frames
    if purpose == "latency":
        shapes: dict[str, Any] = {"batch": (1, segments, segments)}
    else:
        shapes = {"batch": (1, TUNED_CLIPS * segments, MOST_CLIPS * segments)}
    if backbone.segment is None:
        shapes["seconds"] = (SHORTEST, LONGEST, LONGEST)
    return shapes


def on_device(engine: Engine) -> Callable[[torch.Tensor], torch.Tensor]:
    """Samples [B, N] on the GPU to embeddings there, as tensors."""

    def call(samples: torch.Tensor) -> torch.Tensor:
        return torch.from_dlpack(engine.embed(samples))

    return call


def stages(engine: Engine, samples: NDArray[np.float32]) -> dict[str, Any]:
    """Which network an engine runs, and the device's own time for a batch of clips [B, N].

    ``graph_ms`` is a warm call's graph: copy in, frontend, network, layer fusion, copy out;
    ``network_ms`` the network alone, in a graph too. Neither is there where ``captured`` is false.
    """
    runner: Any = engine._runner
    for _ in range(3):  # from the second on it has its graph
        engine.embed(samples)
    slot = runner._slots._idle[-1]
    named = {"backend": runner.name, "captured": slot.graph is not None}
    if slot.graph is None:
        return named
    cuda, network = runner._cuda, runner._model.network
    with cuda.current():
        (batch,) = runner.cutting.batches([samples.shape[1]] * len(samples))
        pieces = batch.cut.pieces
        total, frames = len(samples) * len(pieces), pieces[0].stop - pieces[0].start
        stream, context = network.stream(cuda), network.context()
        layout = MemoryLayout()
        log_mel = layout.add(4 * total * frames * engine.spec.frontend.n_mels)
        offsets = [layout.add(size) for size in context.prepare(total, frames, stream)]
        memory = cuda.allocate(layout.size, stream)
        cuda.fill(memory.address, 0, layout.size // 4, stream)
        context.attach([memory.address + offset for offset in offsets])
        log_mel += memory.address
        context.enqueue(log_mel, stream)
        stream.synchronize()
        assert context.capturable(stream)
        alone = cuda.capture(stream, lambda: context.enqueue(log_mel, stream))
        spent = {
            name: 1e3 * gpu_timing.stream_seconds(functools.partial(graph.launch, on), on.handle)
            for name, graph, on in (
                ("graph_ms", slot.graph, slot.stream),
                ("network_ms", alone, stream),
            )
        }
        stream.synchronize()
        alone.close()
        context.close()
        memory.close(stream)
        stream.close()
    return named | spent
