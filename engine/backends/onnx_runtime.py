"""ONNX Runtime: sessions on the CPU or the GPU, and the backend on the CPU."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._install import install
from ...artifact import read_spec
from ...errors import ArtifactError, BackendError
from ...spec import Spec
from ..graph_shapes import check_graph, check_outputs
from .base import Backend

logger = logging.getLogger(__name__)

CUDA_PROVIDER = "CUDAExecutionProvider"


def import_onnxruntime() -> Any:
    """The module ``onnxruntime``.

    Raises:
        BackendError: it is not installed or does not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"onnxruntime, which runs .onnx artifacts, cannot be imported ({error}). "
            f"Install it: {install('cpu')}"
        ) from error
    return onnxruntime


def cuda_missing(device: str = "auto") -> str | None:
    """Why ONNX Runtime cannot run on the GPU here; ``None`` where it can be tried."""
    from ... import _core
    from ..gpu.device import find_gpu

    runtime = import_onnxruntime()
    if CUDA_PROVIDER not in runtime.get_available_providers():
        return "this onnxruntime has no CUDA provider"
    if not _core.cuda_enabled:
        return "fusion_engine was built without CUDA kernels"
    try:
        find_gpu(device)
    except BackendError as error:
        return str(error)
    return None


class OnnxSession:
    """A session of an artifact, checked against its spec.

    Args:
        path: the artifact.
        providers: execution providers with their options; the first one must really run.
        threads: threads of one run on the CPU; ``None`` lets ONNX Runtime choose.

    Attributes:
        runtime: the module.
        session: its ``InferenceSession``.
        spec: the artifact's spec.
        outputs: names of the layer outputs, in the spec's order.
        name: library, version and provider.

    Raises:
        ArtifactError: missing, damaged, no spec, or a spec that does not fit the graph.
        BackendError: onnxruntime is missing, lacks an operator, or fell back to another provider.
    """

    def __init__(self, path: Path, *, providers: list[Any], threads: int | None = None) -> None:
        self.runtime = import_onnxruntime()
        options = self.runtime.SessionOptions()
        options.log_severity_level = 3  # errors are raised; warnings of the optimiser help nobody
        # Patterns are kept per input shape, and clips have any length.
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = self.runtime.InferenceSession(os.fspath(path), options, providers)
        except Exception as error:  # onnxruntime's own classes share no public base
            if type(error).__name__ == "NotImplemented":
                raise BackendError(
                    f"{path}: ONNX Runtime cannot run it here ({first_line(error)}). If it is the "
                    "typed graph of a plan, run the FP32 artifact that it was made from."
                ) from error
            raise ArtifactError(
                f"{path}: ONNX Runtime cannot load it ({first_line(error)}). It may be truncated "
                "or no ONNX file: export it again with `fusion-engine export`."
            ) from error
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        running = self.session.get_providers()[0]
        if running != wanted:
            raise BackendError(
                f"ONNX Runtime fell back from {wanted} to {running}. Check the CUDA and cuDNN "
                "libraries with `fusion-engine doctor`, or ask for device='cpu'."
            )
        self.name = f"onnxruntime {self.runtime.__version__} ({running})"
        self.spec = self._read_spec(path)
        self.outputs = [layer.name for layer in self.spec.layers]

    def _read_spec(self, path: Path) -> Spec:
        spec = read_spec(path)
        check_graph(spec, self.session.get_inputs(), self.session.get_outputs(), str(path))
        return spec


class OnnxRuntimeBackend(Backend):
    """An `.onnx` artifact on ONNX Runtime's CPU provider.

    Args:
        path: the artifact.
        threads: threads of one run; ``None`` lets ONNX Runtime choose.

    Raises:
        ArtifactError, BackendError: as ``OnnxSession``.
    """

    device = "cpu"

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self._onnx = OnnxSession(path, providers=["CPUExecutionProvider"], threads=threads)
        self.spec, self.name = self._onnx.spec, self._onnx.name
        if any(node.type == "tensor(float16)" for node in self._onnx.session.get_outputs()):
            logger.warning(
                "%s is a graph in FP16, which the CPU computes in FP32: what FP16 loses is not in "
                "its embeddings. `fusion-engine parity` measures it",
                path,
            )

    def run(self, log_mel: NDArray[np.float32]) -> list[NDArray[np.float32]]:  # noqa: D102
        try:
            outputs: list[NDArray[np.float32]] = self._onnx.session.run(
                self._onnx.outputs, {"log_mel": log_mel}
            )
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime failed on log-mel {list(log_mel.shape)}: {first_line(error)}"
            ) from error
        check_outputs(self.spec, log_mel.shape, outputs)
        return outputs


def first_line(error: Exception) -> str:
    """What an error of ONNX Runtime says first; names in it may be a file's, of any length."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]
