"""``config.pbtxt``: what Triton must know of a model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Device = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Args:
        name: in requests and answers.
        type: Triton's name of it, such as ``TYPE_FP32``.
        dims: without the batch; -1 where they vary.
    """

    name: str
    type: str
    dims: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How Triton runs a model.

    Args:
        device: ``cuda``: on every GPU of the server; ``cpu``.
        instances: how many, on each GPU or on the CPU.
        max_batch: the most clips of all requests that are run together.
        max_delay: microseconds that a request waits for others.
        warmup: samples of the clips that are run before the model is ready; 0: none are.
    """

    device: Device
    instances: int
    max_batch: int
    max_delay: int
    warmup: int


def engine_config(name: str, artifact: str, rate: int, dim: int, serving: Serving) -> str:
    """Of the model from samples to embeddings, which the Python backend runs.

    Args:
        name: the model's.
        artifact: its file's name.
        rate: of the samples, in Hz.
        dim: D.
        serving: how it is run.
    """
    lines = [
        f"# Samples at {rate} Hz in [-1, 1], [clips, samples]; embeddings [clips, {dim}].",
        *_head(name, 'backend: "python"', serving.max_batch),
        # Clips of different lengths are run together: the engine sorts them.
        *_tensor("input", Tensor("samples", "TYPE_FP32", (-1,)), "allow_ragged_batch: true"),
        *_tensor("output", Tensor("embedding", "TYPE_FP32", (dim,))),
        *_instances(serving),
        f"dynamic_batching {{ max_queue_delay_microseconds: {serving.max_delay} }}",
        _parameter("artifact", artifact),
        # Samples that are in GPU memory stay there.
        _parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no"),
    ]
    if serving.warmup:
        clip = f"data_type: TYPE_FP32 dims: {serving.warmup} random_data: true"
        # A GPU records a shape's fast path on its second use.
        lines += [
            f'model_warmup {{ name: "batch of {batch}" batch_size: {batch} count: 2 '
            f'inputs {{ key: "samples" value {{ {clip} }} }} }}'
            for batch in sorted({1, serving.max_batch})
        ]
    return "\n".join(lines) + "\n"


def network_config(
    name: str, platform: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], serving: Serving
) -> str:
    """Of the network alone, which Triton's own backend for ``platform`` runs."""
    return "\n".join(
        [
            "# From log-mel to layer outputs: the frontend and the fusion are the client's.",
            *_head(name, f'platform: "{platform}"', serving.max_batch),
            *(line for tensor in inputs for line in _tensor("input", tensor)),
            *(line for tensor in outputs for line in _tensor("output", tensor)),
            *_instances(serving),
            f"dynamic_batching {{ max_queue_delay_microseconds: {serving.max_delay} }}",
            "",
        ]
    )


def _head(name: str, runs_on: str, max_batch: int) -> list[str]:
    return [f"name: {json.dumps(name)}", runs_on, f"max_batch_size: {max_batch}"]


def _tensor(kind: str, tensor: Tensor, *more: str) -> list[str]:
    dims = ", ".join(map(str, tensor.dims))
    # A number for each clip: Triton knows no tensor without dimensions.
    shape = f"dims: [ {dims} ]" if dims else "dims: [ 1 ] reshape { shape: [ ] }"
    fields = [f'name: "{tensor.name}"', f"data_type: {tensor.type}", shape, *more]
    return [f"{kind} {{ {' '.join(fields)} }}"]


def _instances(serving: Serving) -> list[str]:
    kind = "KIND_GPU" if serving.device == "cuda" else "KIND_CPU"
    return [f"instance_group {{ kind: {kind} count: {serving.instances} }}"]


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }}'
