"""The network on ONNX Runtime's CUDA provider, bound to device memory."""

import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ArtifactError, BackendError
from ..cut import most_frames
from ..network import INPUT, VALID_FRAMES, check_outputs
from ..onnx import CUDA_PROVIDER, OnnxSession, first_line, import_onnxruntime
from .cuda_network import Context, CudaNetwork, LayerTensor, TensorLayout
from .driver import Cuda, Stream

logger = logging.getLogger(__name__)

# ``most_frames`` bounds a run for the host's memory; a GPU takes this many times more.
RUN_SCALE = 5
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}


def cuda_providers(index: int, stream: int) -> list[Any]:
    """The CUDA provider in FP32 on our stream; shape arithmetic stays on the CPU provider."""
    options = {
        "device_id": index,
        "user_compute_stream": str(stream),
        "use_tf32": 0,
        # Exhaustive search would time every algorithm for every new length of clip.
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
    return [(CUDA_PROVIDER, options), "CPUExecutionProvider"]


def preload_cuda_libraries() -> None:
    """Load the CUDA and cuDNN libraries of pip's packages, where the system has none."""
    runtime = import_onnxruntime()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # what it does not find, it prints
        runtime.preload_dlls(directory="")
    if said.getvalue():
        logger.info("onnxruntime: %s", said.getvalue().strip())


class OnnxCudaNetwork(CudaNetwork):
    """An `.onnx` artifact. All contexts share one stream, since a session has one.

    Args:
        path: the artifact.
        stream: where its work is queued.
        device: ONNX Runtime's name and index of the device, ``("cuda", 0)``.
        providers: execution providers with their options.

    Raises:
        ArtifactError, BackendError: as ``OnnxSession``.
    """

    concurrency = 1

    def __init__(
        self, path: Path, *, stream: Stream, device: tuple[str, int], providers: list[Any]
    ) -> None:
        self._onnx = OnnxSession(path, providers=providers)
        kinds = {node.name: node.type for node in self._onnx.session.get_outputs()}
        unknown = sorted(set(kinds.values()) - set(_DTYPES))
        if unknown:
            raise ArtifactError(f"{path}: outputs of type {unknown}, expected {list(_DTYPES)}")
        self.spec, self.name = self._onnx.spec, self._onnx.name
        self.min_frames, self.max_frames = self.spec.min_frames, self.spec.max_frames
        self._dtypes = [_DTYPES[kinds[name]] for name in self._onnx.outputs]
        self._stream, self._device = stream, device

    def segments_per_run(self, frames: int) -> int:  # noqa: D102
        return max(1, RUN_SCALE * most_frames(self.spec) // frames)

    def stream(self, cuda: Cuda) -> Stream:  # noqa: D102
        return self._stream.shared()

    def context(self) -> Context:  # noqa: D102
        return _OnnxContext(self._onnx, self._device, self.spec.frontend.n_mels, self._dtypes)

    def close(self) -> None:  # noqa: D102
        del self._onnx
        self._stream.close()


class _OnnxContext(Context):
    def __init__(
        self, onnx: OnnxSession, device: tuple[str, int], n_mels: int, dtypes: Sequence[str]
    ) -> None:
        self._onnx, self._device, self._n_mels, self._dtypes = onnx, device, n_mels, dtypes
        self._binding = onnx.session.io_binding()
        self._options = onnx.runtime.RunOptions()
        # What follows is queued on the same stream: nobody has to wait here.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._shape: tuple[int, ...] = ()
        self._outputs: Any = None

    def prepare(self, segments: int, frames: int, stream: Stream) -> Sequence[int]:
        self._shape = (segments, 1, frames, self._n_mels)
        # ONNX Runtime's arena holds the outputs, whose sizes it knows once it has computed them,
        # and writes to the same ones until they are bound again.
        self._outputs = None
        self._binding.clear_binding_outputs()
        for name in self._onnx.outputs:
            self._binding.bind_output(name, *self._device)
        return ()

    def attach(self, addresses: Sequence[int]) -> None:
        pass

    def enqueue(self, log_mel: int, stream: Stream, valid: int = 0) -> Sequence[LayerTensor]:
        kind, index = self._device
        try:
            self._binding.bind_input(INPUT, kind, index, np.float32, self._shape, log_mel)
            if self._onnx.spec.masked:
                shape = self._shape[:1]
                self._binding.bind_input(VALID_FRAMES, kind, index, np.int32, shape, valid)
            self._onnx.session.run_with_iobinding(self._binding, self._options)
            self._outputs = self._binding.get_outputs()
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime failed on log-mel {list(self._shape)}: {first_line(error)}"
            ) from error
        layouts = [
            TensorLayout.linear(dtype, tuple(value.shape()))
            for value, dtype in zip(self._outputs, self._dtypes, strict=True)
        ]
        check_outputs(self._onnx.spec, self._shape, [layout.shape for layout in layouts])
        return [
            LayerTensor(value.data_ptr(), layout)
            for value, layout in zip(self._outputs, layouts, strict=True)
        ]

    def close(self) -> None:
        del self._outputs, self._binding, self._onnx
