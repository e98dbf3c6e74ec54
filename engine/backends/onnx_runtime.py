"""ONNX Runtime, on the CPU or through its CUDA provider."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError, BackendError
from ...spec import METADATA_KEY, Spec
from .base import Backend

logger = logging.getLogger(__name__)

INSTALL_HINT = 'pip install "fusion-engine[cpu]"'


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
            f"Install it: {INSTALL_HINT}"
        ) from error
    return onnxruntime


class OnnxRuntimeBackend(Backend):
    """An `.onnx` artifact on ONNX Runtime.

    Args:
        path: the artifact.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
        threads: threads of one run on the CPU; ``None`` lets ONNX Runtime choose.

    Raises:
        ArtifactError: missing, damaged, no spec, or a spec that does not fit the graph.
        BackendError: onnxruntime or the device is missing.
    """

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None) -> None:
        self._ort = import_onnxruntime()
        self.device, providers = self._choose(device)
        options = self._ort.SessionOptions()
        options.log_severity_level = 3  # errors are raised; warnings of the optimiser help nobody
        # Patterns are kept per input shape, and clips have any length.
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = self._ort.InferenceSession(os.fspath(path), options, providers)
        except Exception as error:  # onnxruntime's own classes share no public base
            raise ArtifactError(
                f"{path}: ONNX Runtime cannot load it ({_first_line(error)}). It may be truncated "
                "or no ONNX file: export it again with `fusion-engine export`."
            ) from error
        running = self._session.get_providers()[0]
        if running != _name(providers[0]):
            raise BackendError(
                f"device {self.device!r}: ONNX Runtime fell back to {running}. Check the CUDA and "
                "cuDNN libraries with `fusion-engine doctor`, or ask for device='cpu'."
            )
        self.name = f"onnxruntime {self._ort.__version__} ({running})"
        self.spec = self._read_spec(path)
        self._outputs = [layer.name for layer in self.spec.layers]

    def run(self, log_mel: NDArray[np.float32]) -> list[NDArray[np.float32]]:  # noqa: D102
        try:
            outputs: list[NDArray[np.float32]] = self._session.run(
                self._outputs, {"log_mel": log_mel}
            )
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime failed on log-mel {list(log_mel.shape)}: {_first_line(error)}"
            ) from error
        return outputs

    def _choose(self, device: str) -> tuple[str, list[Any]]:
        """The device that will run, and the providers that make it so."""
        cpu = "cpu", ["CPUExecutionProvider"]
        available = self._ort.get_available_providers()
        if device == "cpu":
            return cpu
        if device == "auto" and "CUDAExecutionProvider" not in available:
            logger.info("device auto: cpu, since this onnxruntime has no CUDA provider")
            return cpu
        if "CUDAExecutionProvider" not in available:
            raise BackendError(
                f"device {device!r}: this onnxruntime runs on {available} only. Install "
                "onnxruntime-gpu in place of onnxruntime on a machine with an NVIDIA GPU, or ask "
                "for device='cpu'."
            )
        index = int(device.partition(":")[2] or 0) if device != "auto" else 0
        # The fallback would hide a missing GPU: it is asked about once the session exists.
        options = {"device_id": index, "use_tf32": 0}
        logger.info("device %s: cuda:%d through onnxruntime's CUDA provider", device, index)
        return f"cuda:{index}", [("CUDAExecutionProvider", options), "CPUExecutionProvider"]

    def _read_spec(self, path: Path) -> Spec:
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise ArtifactError(
                f"{path}: no {METADATA_KEY!r} entry in its metadata, so it was not written by "
                "fusion_engine. Export the model with `fusion-engine export`."
            )
        spec = Spec.from_json(text, where=str(path))
        inputs = [node.name for node in self._session.get_inputs()]
        outputs = [node.name for node in self._session.get_outputs()]
        expected = [layer.name for layer in spec.layers]
        if inputs != ["log_mel"] or outputs != expected:
            raise ArtifactError(
                f"{path}: the graph has inputs {inputs} and outputs {outputs}, its spec says "
                f"['log_mel'] and {expected}. Export the model again with `fusion-engine export`."
            )
        return spec


def _name(provider: Any) -> str:
    return provider if isinstance(provider, str) else str(provider[0])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
