"""Our own contenders on a GPU: artifacts and plans, made once per run, and engines on them."""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fusion_engine import Engine
from fusion_engine._install import install
from fusion_engine.engine.onnx import cuda_missing
from fusion_engine.engine.precision import Precision
from fusion_engine.engine.tensorrt import build, installed_runtimes
from fusion_engine.errors import BackendError
from fusion_engine.export import export, resolve

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


def products() -> tuple[Product, ...]:
    """In the order of the report."""
    return (
        *(
            Product(
                f"fusion_engine, TensorRT {precision.upper()}",
                dtype,
                tensorrt_missing,
                functools.partial(plan, precision),
            )
            for precision, dtype in _PRECISIONS
        ),
        Product("fusion_engine, ONNX Runtime FP32", "float32", onnxruntime_missing, artifact),
    )


_PRECISIONS: tuple[tuple[Precision, str], ...] = (("fp16", "float16"), ("bf16", "bfloat16"))


def tensorrt_missing() -> str | None:
    """Why no plan can be built and run."""
    if installed_runtimes():
        return None
    return f"neither tensorrt nor tensorrt_rtx is installed: {install('gpu')}"


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
