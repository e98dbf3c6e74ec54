"""One network through TensorRT: parsed, named, given its formats and profiles, and serialized."""

import logging
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...errors import ArtifactError, BackendError
from ...spec import LayerSpec, Spec
from ..devices import GpuInfo, import_cuda
from ..network import INPUT, VALID_FRAMES, input_names
from ..network_input import DType, NetworkInput
from ..precision import Precision
from .library import Heard, Library
from .monitor import BuildProgress, make_monitor
from .network_name import encode_name
from .profile import Profile
from .sidecar import TensorFormat, TensorInfo, TensorType, Tiling
from .targets import target_name
from .timing_cache import load_timing_cache, save_timing_cache, timing_cache_path

logger = logging.getLogger(__name__)

# The type of the layer outputs; float32 otherwise.
_LOW: dict[Precision, DType] = {"fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What a plan is built for; see ``build``."""

    precision: Precision
    profiles: tuple[Profile, ...]
    targets: tuple[str, ...]
    effort: int
    tiling: Tiling
    linear_outputs: bool
    network_input: NetworkInput


@dataclass(frozen=True, kw_only=True)
class Serialized:
    """A plan in memory.

    Args:
        plan: its bytes, as TensorRT returned them.
        tensors: the network's input and outputs.
        activation_bytes: activation memory at the profiles' maximum, where the builder said.
        seconds: how long TensorRT took.
    """

    plan: memoryview
    tensors: tuple[TensorInfo, ...]
    activation_bytes: int | None
    seconds: float


def serialize(
    graph: bytes,
    spec: Spec,
    options: BuildOptions,
    *,
    library: Library,
    gpu: GpuInfo | None,
    cancelled: threading.Event,
    progress: BuildProgress | None,
) -> Serialized:
    """Build the typed ONNX ``graph`` of an artifact into a plan that is named ``spec``.

    Args:
        graph: a serialized model, whose types are the precision's.
        spec: the plan's.
        options: see there.
        library: what builds.
        gpu: the GPU to build on, ``None`` for none.
        cancelled: stops the build at its next step once set.
        progress: called as TensorRT goes through its phases.

    Raises:
        ArtifactError: the graph is not the one that the spec describes.
        BackendError: the parser or the builder failed, or another type came out.
    """
    if gpu is not None:
        import_cuda()[0].Device(gpu.index).set_current()
    trt = library.module
    started = time.perf_counter()
    with library.listen() as heard:
        builder = trt.Builder(library.logger)
        # TensorRT 11 and RTX know no other networks.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parse(library, network, graph)
        _set_name(network, spec, options.network_input)
        tensors = _set_formats(trt, network, spec, options)
        config = _configure(library, builder, spec, options)
        config.progress_monitor = monitor = make_monitor(trt, cancelled, progress)
        cache = None
        if gpu is not None and not library.is_rtx:
            cache = timing_cache_path(library, gpu)
            load_timing_cache(config, cache)
        plan = builder.build_serialized_network(network, config)
        if monitor.failure is not None:
            raise monitor.failure
        if plan is None:
            why = "cancelled" if cancelled.is_set() else heard.reason("it gave no reason")
            raise BackendError(f"{library} could not build the plan: {why}")
        if cache is not None:
            save_timing_cache(config, cache)
    return Serialized(
        plan=memoryview(plan),
        tensors=tensors,
        activation_bytes=_activation_bytes(heard),
        seconds=time.perf_counter() - started,
    )


def parse(library: Library, network: Any, graph: bytes) -> None:
    """Read a serialized ONNX ``graph`` into ``network``.

    Raises:
        BackendError: the parser's own messages, each with its node.
    """
    parser = library.module.OnnxParser(network, library.logger)
    if not parser.parse(graph):
        errors = [
            f"{error.node_operator()} {error.node_name()!r}: {error.desc()}"
            for error in map(parser.get_error, range(parser.num_errors))
        ]
        raise BackendError(
            f"{library} cannot parse the graph: {'; '.join(errors) or 'it gave no reason'}"
        )


def _set_name(network: Any, spec: Spec, network_input: NetworkInput) -> None:
    name = encode_name(spec, network_input)
    network.name = name
    if network.name != name:
        raise BackendError(
            f"TensorRT did not take the spec as the network's name ({len(name)} bytes): export "
            "fewer layers"
        )


def _set_formats(
    trt: Any, network: Any, spec: Spec, options: BuildOptions
) -> tuple[TensorInfo, ...]:
    """Fix types and layouts, so that whoever binds buffers knows them; read them back."""
    dtypes: dict[Any, TensorType] = {
        trt.DataType.FLOAT: "float32",
        trt.DataType.HALF: "float16",
        trt.DataType.BF16: "bfloat16",
        trt.DataType.INT32: "int32",
    }
    low = _LOW.get(options.precision, "float32")
    formats: dict[TensorFormat, Any] = {
        "linear": trt.TensorFormat.LINEAR,
        "hwc8": trt.TensorFormat.HWC8,
    }
    by_mask = {1 << int(value): name for name, value in formats.items()}
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    names = [tensor.name for tensor in outputs]
    expected = [layer.name for layer in spec.layers]
    if [tensor.name for tensor in inputs] != input_names(spec) or names != expected:
        raise ArtifactError(
            f"the graph has inputs {[tensor.name for tensor in inputs]} and outputs {names}, its "
            f"spec says {input_names(spec)} and {expected}. Export the model again."
        )

    def fix(tensor: Any, mode: Any, dtype: TensorType, format: TensorFormat) -> TensorInfo:
        tensor.allowed_formats = 1 << int(formats[format])
        if dtypes.get(tensor.dtype) != dtype:
            raise BackendError(f"{tensor.name} became {tensor.dtype}, expected {dtype}")
        return TensorInfo(
            name=tensor.name,
            mode=mode,
            shape=tuple(tensor.shape),
            dtype=dtype,
            format=by_mask[tensor.allowed_formats],
        )

    return (
        fix(inputs[0], "input", options.network_input.dtype, "linear"),
        *(fix(tensor, "input", "int32", "linear") for tensor in inputs[1:]),
        *(
            fix(tensor, "output", low, _format(layer, options))
            for tensor, layer in zip(outputs, spec.layers, strict=True)
        ),
    )


def _format(layer: LayerSpec, options: BuildOptions) -> TensorFormat:
    """NHWC where TensorRT has it for the type and the shape."""
    half = options.precision in _LOW
    if half and not options.linear_outputs and layer.kind == "map" and layer.channels % 8 == 0:
        return "hwc8"
    return "linear"


def _configure(library: Library, builder: Any, spec: Spec, options: BuildOptions) -> Any:
    trt = library.module
    config = builder.create_builder_config()
    config.builder_optimization_level = options.effort
    if options.tiling != "none":
        _set_tiling(library, config, options.tiling)
    # Set by default.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.precision == "tf32":
        config.set_flag(trt.BuilderFlag.TF32)
    # A shape then takes activation memory for itself, not for the profile's largest.
    config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    if library.is_rtx:
        # The engine then never allocates memory by itself, which capturing a graph needs.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        _set_targets(trt, config, options.targets)
        logger.info("timing cache: none, %s does not use one", library)
    for shapes in options.profiles:
        profile = builder.create_optimization_profile()
        inputs = shapes.shapes(spec.frontend.n_mels)
        profile.set_shape(INPUT, *inputs)
        if spec.masked:
            profile.set_shape(VALID_FRAMES, *(shape[:1] for shape in inputs))
        config.add_optimization_profile(profile)
    return config


def _set_tiling(library: Library, config: Any, tiling: Tiling) -> None:
    if not hasattr(config, "tiling_optimization_level"):
        raise BackendError(f"{library} has no tiling levels: leave out tiling, {tiling!r}")
    levels = library.module.TilingOptimizationLevel.__members__
    config.tiling_optimization_level = levels[tiling.upper()]


def _set_targets(trt: Any, config: Any, targets: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        capability = trt.ComputeCapability.__members__[target_name(target)]
        config.set_compute_capability(capability, index)


def _activation_bytes(heard: Heard) -> int | None:
    """From the builder's log: without a GPU there is no engine to ask."""
    return max(_matches(heard), default=None)


def _matches(heard: Heard) -> Iterator[int]:
    for note in heard.notes:
        if match := re.search(r"Total Activation Memory: (\d+) bytes", note):
            yield int(match[1])
