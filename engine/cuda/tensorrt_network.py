"""The network on TensorRT or TensorRT for RTX."""

import threading
from collections.abc import Sequence
from typing import Any

from ...errors import ArtifactError, AudioError, BackendError
from ...spec import Spec
from ..network import VALID_FRAMES, input_names, shape_problems
from ..network_input import LOG_MEL, NetworkInput
from ..tensorrt.library import Library
from ..tensorrt.runtime_cache import RuntimeCache
from .cuda_network import Context, CudaNetwork, LayerTensor, TensorLayout
from .driver import Cuda, Stream

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
# Channels-last formats, and what they pad the channels to.
_CHANNELS_LAST = {"HWC": 1, "HWC8": 8, "HWC16": 16}


def deserialize(library: Library, plan: bytes, where: str, rebuild: str) -> tuple[Any, Any]:
    """The runtime and the engine of a plan's bytes; the runtime must outlive the engine.

    Raises:
        BackendError: the library refuses the plan.
    """
    with library.listen() as heard:
        runtime = library.module.Runtime(library.logger)
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        reason = heard.reason("it gave no reason")
        raise BackendError(
            f"{where}: {library} cannot load it ({reason}). Build it again: {rebuild}"
        )
    return runtime, engine


class TensorRTNetwork(CudaNetwork):
    """A plan that was loaded.

    Args:
        library: the library that loaded it.
        runtime: kept as long as the engine.
        engine: its ``ICudaEngine``.
        spec: its spec.
        network_input: what it takes.
        rebuild: the command that builds it again, for messages.
        compiled: TensorRT for RTX: kernels that it compiled before, and where new ones are kept.

    Raises:
        ArtifactError: inputs or outputs that are not the spec's.
    """

    concurrency = None

    def __init__(
        self,
        library: Library,
        runtime: Any,
        engine: Any,
        spec: Spec,
        *,
        network_input: NetworkInput = LOG_MEL,
        rebuild: str,
        compiled: RuntimeCache | None = None,
    ) -> None:
        self._library, self._runtime, self._engine = library, runtime, engine
        self._compiled = compiled
        self._lock = threading.Lock()
        self._rebuild = rebuild
        self.spec, self.name, self.input = spec, str(library), network_input
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        expected = [*input_names(spec), *(layer.name for layer in spec.layers)]
        if sorted(names) != sorted(expected):
            raise ArtifactError(
                f"the plan has the tensors {names}, its spec says {expected}. Build it again: "
                f"{rebuild}"
            )
        dtype = engine.get_tensor_dtype("log_mel").name
        if _DTYPES.get(dtype) != network_input.dtype:
            raise ArtifactError(
                f"the plan takes log-mel of type {dtype}, expected {network_input.dtype}. Build it "
                f"again: {rebuild}"
            )
        shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        for problem in shape_problems(spec, shapes):
            raise ArtifactError(
                f"the plan is not what its spec says: {problem}. Build it again: {rebuild}"
            )
        self.profiles: list[tuple[tuple[int, ...], ...]] = [
            tuple(tuple(shape) for shape in engine.get_tensor_profile_shape("log_mel", index))
            for index in range(engine.num_optimization_profiles)
        ]
        self.min_frames = max(spec.min_frames, min(least[2] for least, _, _ in self.profiles))
        self.max_frames = min(spec.max_frames, max(most[2] for _, _, most in self.profiles))

    def profile(self, segments: int, frames: int) -> int:
        """The first profile that takes the shape: they are built with the tightest first.

        Raises:
            AudioError: none does.
        """
        for index, (least, _, most) in enumerate(self.profiles):
            if least[0] <= segments <= most[0] and least[2] <= frames <= most[2]:
                return index
        ranges = " or ".join(
            f"{least[0]} to {most[0]} inputs of {least[2]} to {most[2]} frames"
            for least, _, most in self.profiles
        )
        hop = self.spec.frontend.hop_length / self.spec.frontend.sample_rate
        raise AudioError(
            f"{segments} inputs of {frames} frames ({frames * hop:.2f} s), and this plan takes "
            f"{ranges}. Build it with another --batch or --frames: {self._rebuild}"
        )

    def segments_per_run(self, frames: int) -> int:  # noqa: D102
        fitting = [most[0] for least, _, most in self.profiles if least[2] <= frames <= most[2]]
        if not fitting:
            self.profile(1, frames)  # says why
        return max(fitting)

    def stream(self, cuda: Cuda) -> Stream:  # noqa: D102
        return cuda.stream()

    def context(self) -> Context:  # noqa: D102
        with self._lock, self._library.listen() as heard:
            context = self._create_context()
        if context is None:
            raise BackendError(
                f"{self._library} made no execution context: {heard.reason('it gave no reason')}"
            )
        return _TensorRTContext(self, self._library, self._engine, context)

    def _create_context(self) -> Any:
        trt = self._library.module
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(trt, "CudaGraphStrategy"):
            return self._engine.create_execution_context(strategy)
        # RTX: graphs are ours, and kernels for a shape are compiled in its first run: compiled
        # later, they would replace ones that a graph holds.
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        if self._compiled is not None:
            self._compiled.use(config)
        return self._engine.create_execution_context(config)

    def close(self) -> None:  # noqa: D102
        if self._compiled is not None:
            self._compiled.save()
        del self._compiled
        del self._engine
        del self._runtime


class _TensorRTContext(Context):
    def __init__(
        self, network: TensorRTNetwork, library: Library, engine: Any, context: Any
    ) -> None:
        self._network, self._library = network, library
        self._engine, self._context = engine, context
        self._layers = [layer.name for layer in network.spec.layers]
        self._layouts: list[TensorLayout] = []
        self._tensors: list[LayerTensor] = []
        self._scratch = 0

    def prepare(self, segments: int, frames: int, stream: Stream) -> Sequence[int]:
        shape = (segments, 1, frames, self._network.spec.frontend.n_mels)
        profile = self._network.profile(segments, frames)
        with self._library.listen() as heard:
            done = True
            if profile != self._context.active_optimization_profile:
                done = self._context.set_optimization_profile_async(profile, stream.handle)
                stream.synchronize()
            done = done and self._context.set_input_shape("log_mel", shape)
            if self._network.spec.masked:
                done = done and self._context.set_input_shape(VALID_FRAMES, shape[:1])
            missing = self._context.infer_shapes() if done else ["log_mel"]
            # 0 is an answer too: some networks need none.
            self._scratch = self._context.update_device_memory_size_for_shapes() if done else 0
        if missing:
            raise BackendError(
                f"{self._library} refused log-mel {list(shape)}: "
                f"{heard.reason(f'no shape of {missing}')}"
            )
        self._layouts = [self._layout(name, profile) for name in self._layers]
        return [self._scratch, *(layout.bytes for layout in self._layouts)]

    def attach(self, addresses: Sequence[int]) -> None:
        scratch, *outputs = addresses
        self._context.set_device_memory(scratch if self._scratch else 0, self._scratch)
        for name, address in zip(self._layers, outputs, strict=True):
            self._check(self._context.set_tensor_address(name, address), f"address of {name}")
        self._tensors = [
            LayerTensor(address, layout)
            for address, layout in zip(outputs, self._layouts, strict=True)
        ]

    def enqueue(self, log_mel: int, stream: Stream, valid: int = 0) -> Sequence[LayerTensor]:
        self._check(self._context.set_tensor_address("log_mel", log_mel), "address of log_mel")
        if self._network.spec.masked:
            taken = self._context.set_tensor_address(VALID_FRAMES, valid)
            self._check(taken, f"address of {VALID_FRAMES}")
        with self._library.listen() as heard:
            done = self._context.execute_async_v3(stream.handle)
        if not done:
            raise BackendError(
                f"{self._library} failed to run: {heard.reason('it gave no reason')}"
            )
        return self._tensors

    def capturable(self, stream: Stream) -> bool:
        # TensorRT itself has no such question: its networks without loops or data-dependent shapes
        # are capturable.
        ask = getattr(self._context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(stream.handle))

    def close(self) -> None:
        del self._context
        del self._engine

    def _layout(self, name: str, profile: int) -> TensorLayout:
        shape = tuple(self._context.get_tensor_shape(name))
        dtype = self._engine.get_tensor_dtype(name).name
        if dtype not in _DTYPES:
            raise BackendError(f"{name} is {dtype}, expected one of {list(_DTYPES)}")
        order = self._engine.get_tensor_format(name, profile).name
        if order == "LINEAR":
            return TensorLayout.linear(_DTYPES[dtype], shape)
        if order not in _CHANNELS_LAST or len(shape) != 4:
            expected = ["LINEAR", *_CHANNELS_LAST]
            raise BackendError(f"{name} has the format {order}, expected one of {expected}")
        return TensorLayout.channels_last(_DTYPES[dtype], shape, _CHANNELS_LAST[order])

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise BackendError(f"{self._library} refused the {what}")
