"""Writes a model repository around an artifact."""

import os
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._atomic import create_folder, write_error
from ..artifact import data_path, read_spec, report_path
from ..engine.network_input import LOG_MEL
from ..engine.tensorrt import read_plan
from ..errors import ArtifactError, FusionEngineError
from .config import Device, Serving, Tensor, engine_config, network_config

_MODEL = '''"""Samples in, embeddings out; the artifact is beside this file."""

from fusion_engine.triton.backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "int32": "TYPE_INT32",
}


def write_repository(
    artifact: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    name: str | None = None,
    device: Device = "cuda",
    instances: int = 1,
    max_batch: int = 64,
    max_delay: int = 500,
    warmup: float = 10.0,
    network: bool = False,
) -> list[Path]:
    """Add a model to a repository for NVIDIA Triton, which may have others.

    The model takes ``samples`` [B, N] (FP32, at the artifact's rate) and gives ``embedding`` [B, D]
    (FP32), through ``Engine`` in Triton's Python backend: the server's Python needs fusion_engine.

    Args:
        artifact: the ``.onnx`` or ``.plan``, which is copied.
        repository: the folder; created where it is missing.
        name: of the model; ``None``: the artifact's file name.
        device: ``cuda``: instances on every GPU of the server; ``cpu``.
        instances: on each GPU, or on the CPU.
        max_batch: the most clips that are run together.
        max_delay: microseconds that a request waits for others.
        warmup: seconds of the clips that are run before the model is ready; 0: none are.
        network: also add NAME_network, the network alone from log-mel to layer outputs, for those
            who have a frontend and a fusion of their own.

    Returns:
        The folders of the models.

    Raises:
        ArtifactError: as ``read_spec``; a plan whose network no other program can use.
        FusionEngineError: a model of that name is there, or it cannot be written.
        ValueError: an argument out of range.
    """
    for what, value, least in (
        ("instances", instances, 1),
        ("max_batch", max_batch, 1),
        ("max_delay", max_delay, 0),
        ("warmup", warmup, 0),
    ):
        if value < least:
            raise ValueError(f"{what} is {value}, expected at least {least}")
    artifact, repository = Path(artifact), Path(repository)
    name = artifact.stem if name is None else name
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name, re.ASCII) is None:
        raise ValueError(f"name is {name!r}, expected letters, digits, '_', '-' and '.'")
    spec = read_spec(artifact)
    rate = spec.frontend.sample_rate
    serving = Serving(
        device=device,
        instances=instances,
        max_batch=max_batch,
        max_delay=max_delay,
        warmup=round(warmup * rate),
    )
    config = engine_config(name, artifact.name, rate, spec.embedding_dim, serving)
    models = {name: (config, artifact.name)}
    if network:
        config = _network_config(f"{name}_network", artifact, serving)
        models[f"{name}_network"] = (config, f"model{artifact.suffix}")
    for model in models:
        if (repository / model).exists():
            raise FusionEngineError(
                f"{repository / model} is there already. Choose another name, or remove it."
            )
    create_folder(repository)
    try:
        for model, (config, file_name) in models.items():
            _write_model(repository / model, config, artifact, file_name)
    except OSError as error:
        raise write_error(repository, error) from error
    return [repository / model for model in models]


def _write_model(folder: Path, config: str, artifact: Path, file_name: str) -> None:
    """A model that appears whole: a server may be watching the repository."""
    with tempfile.TemporaryDirectory(prefix=".fusion_engine-", dir=folder.parent) as temporary:
        model = Path(temporary) / folder.name
        version = model / "1"
        version.mkdir(parents=True)
        # A temporary folder is private, and the server may be another user.
        model.chmod(0o755)
        (model / "config.pbtxt").write_text(config, encoding="utf-8")
        shutil.copyfile(artifact, version / file_name)
        # Weights keep the name that the graph knows them by.
        beside = [data_path(artifact)]
        if file_name == artifact.name:
            (version / "model.py").write_text(_MODEL, encoding="utf-8")
            beside.append(report_path(artifact))
        for path in beside:
            if path.exists():
                shutil.copyfile(path, version / path.name)
        model.rename(folder)


def _network_config(name: str, artifact: Path, serving: Serving) -> str:
    if artifact.suffix == ".plan":
        return _of_plan(name, artifact, serving)
    import onnx

    graph = onnx.load(artifact, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_of_onnx(value) for value in graph.input if value.name not in weights]
    outputs = [_of_onnx(value) for value in graph.output]
    return network_config(name, "onnxruntime_onnx", inputs, outputs, serving)


def _of_onnx(value: Any) -> Tensor:
    import onnx

    kind = value.type.tensor_type
    # A size that has a name is not fixed, and its number is 0.
    sizes = [size.dim_value or -1 for size in kind.shape.dim]
    types = {
        onnx.TensorProto.FLOAT: "TYPE_FP32",
        onnx.TensorProto.INT32: "TYPE_INT32",
        onnx.TensorProto.INT64: "TYPE_INT64",
    }
    return Tensor(value.name, types[kind.elem_type], tuple(sizes[1:]))


def _of_plan(name: str, artifact: Path, serving: Serving) -> str:
    info = read_plan(artifact)
    if info.sidecar is None:
        raise ArtifactError(
            f"{artifact}: no sidecar beside it, so that nobody knows the types of its tensors. Put "
            f"{report_path(artifact).name} beside it."
        )
    tensors = info.sidecar.tensors
    if info.input != LOG_MEL or any(tensor.format != "linear" for tensor in tensors):
        raise ArtifactError(
            f"{artifact}: its input and outputs are as fusion_engine's kernels have them. For "
            "other programs build it with --log-mel-input and --linear-outputs."
        )
    serving = replace(serving, max_batch=min(serving.max_batch, info.sidecar.profile.batch.max))
    put = {
        mode: [Tensor(t.name, _TYPES[t.dtype], t.shape[1:]) for t in tensors if t.mode == mode]
        for mode in ("input", "output")
    }
    return network_config(name, "tensorrt_plan", put["input"], put["output"], serving)
