"""ONNX Runtime: sessions on the CPU or the GPU, and the network on the CPU."""

import logging
import os
import re
import threading
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._forking import never_free, watch_forks
from .._install import install
from .._instructions import saturates
from ..artifact import read_spec
from ..errors import ArtifactError, BackendError
from ..spec import Spec
from .in_place import in_place
from .integrity import Check
from .network import INPUT, check_embedding, check_graph, check_outputs, fed

logger = logging.getLogger(__name__)

_KNOWN_SHAPES = 4_096

CUDA_PROVIDER = "CUDAExecutionProvider"

# ONNX Runtime reads it once, while it is imported. Without it 1.32 writes a device ID and events
# into the user's cache and looks up a host to send them to.
TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"

# Where the external data of a model lies that is no file.
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"

# How memory that ran out is called, by C++, ONNX Runtime and Linux.
_NO_MEMORY = r"bad_alloc|bad_array_new|(?i:failed to allocate|cannot allocate|out of memory)|ENOMEM"


def import_onnxruntime() -> Any:
    """The module ``onnxruntime``, which does not report home unless the environment says so.

    Raises:
        BackendError: it is not installed or does not load.
    """
    os.environ.setdefault(TELEMETRY_SWITCH, "1")
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
    from .. import _core
    from .devices import find_gpu

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
        spinning: idle threads wait busily.

    Attributes:
        runtime: the module.
        session: its ``InferenceSession``.
        spec: the artifact's spec.
        input: name of the input, ``log_mel``, or ``samples`` of a waveform artifact.
        outputs: names of the layer outputs, in the spec's order, or ``embedding``.
        name: library, version and provider.

    Raises:
        ArtifactError: missing, damaged, no spec, or a spec that does not fit the graph.
        BackendError: onnxruntime is missing, lacks an operator, or fell back to another provider;
            memory or threads run out.
    """

    def __init__(
        self,
        path: Path,
        *,
        providers: list[Any],
        threads: int | None = None,
        spinning: bool = False,
    ) -> None:
        self.runtime = import_onnxruntime()
        options = self.runtime.SessionOptions()
        options.log_severity_level = 3  # errors are raised; warnings of the optimiser help nobody
        # Patterns are kept per input shape, and clips have any length.
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
            _require_threads(threads)
        for pool in ("intra_op", "inter_op"):
            options.add_session_config_entry(
                f"session.{pool}.allow_spinning", "1" if spinning else "0"
            )
        with Check(path):
            self.session = self._load(path, options, providers)
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        running = self.session.get_providers()[0]
        if running != wanted:
            raise BackendError(
                f"ONNX Runtime fell back from {wanted} to {running}. Check the CUDA and cuDNN "
                "libraries with `fusion-engine doctor`, or ask for device='cpu'."
            )
        self.name = f"onnxruntime {self.runtime.__version__} ({running})"
        self.spec = self._read_spec(path)
        self.input = self.session.get_inputs()[0].name
        self.outputs = [node.name for node in self.session.get_outputs()]

    def _load(self, path: Path, options: Any, providers: list[Any]) -> Any:
        session = self.runtime.InferenceSession
        try:
            precision = _precision(path)
            if precision == "fp8":  # whose convolutions 1.32 fuses into wrong ones above that
                options.graph_optimization_level = (
                    self.runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
                )
            if precision == "int8" and providers == ["CPUExecutionProvider"]:
                return session(_cpu_form(path), options, providers)
            if providers == ["CPUExecutionProvider"] and (parts := in_place(path)) is not None:
                options.add_session_config_entry(_EXTERNAL_FOLDER, os.fspath(parts.folder))
                try:
                    return session(parts.model, options, providers)
                except Exception as error:
                    if is_out_of_memory(error):
                        raise
                    logger.info("%s: opened by its path (%s)", path, first_line(error))
            return session(os.fspath(path), options, providers)
        except Exception as error:  # onnxruntime's own classes share no public base
            if is_out_of_memory(error):
                raise BackendError(
                    f"{path}: not enough memory to open it ({first_line(error)}). Its weights take "
                    "about the size of the file, and opening it twice that for a moment."
                ) from error
            if type(error).__name__ == "NotImplemented":
                raise BackendError(
                    f"{path}: ONNX Runtime cannot run it here ({first_line(error)}). If it is the "
                    "typed graph of a plan, run the FP32 artifact that it was made from."
                ) from error
            raise ArtifactError(
                f"{path}: ONNX Runtime cannot load it ({first_line(error)}). It may be truncated "
                "or no ONNX file: export it again with `fusion-engine export`."
            ) from error

    def _read_spec(self, path: Path) -> Spec:
        spec = read_spec(path)
        check_graph(spec, self.session.get_inputs(), self.session.get_outputs(), str(path))
        return spec


class OnnxNetwork:
    """An `.onnx` artifact on ONNX Runtime's CPU provider.

    Args:
        path: the artifact.
        threads: threads of one run; ``None`` lets ONNX Runtime choose.
        spinning: idle threads wait busily.

    Raises:
        ArtifactError, BackendError: as ``OnnxSession``.
    """

    def __init__(self, path: Path, *, threads: int | None = None, spinning: bool = False) -> None:
        self._path, self._threads, self._spinning = path.absolute(), threads, spinning
        self._state = _state(path)
        onnx = self._open(path)
        self._onnx: OnnxSession | None = onnx
        self._lock = threading.Lock()
        watch_forks(self)
        self.spec, self.name = onnx.spec, onnx.name
        # What a graph gives for one shape is checked once.
        check = check_outputs if onnx.input == INPUT else check_embedding
        self._check = lru_cache(_KNOWN_SHAPES)(partial(check, self.spec))
        if any(node.type == "tensor(float16)" for node in onnx.session.get_outputs()):
            logger.warning(
                "%s is a graph in FP16, which the CPU computes in FP32: what FP16 loses is not in "
                "its embeddings. `fusion-engine parity` measures it",
                path,
            )

    def run(
        self, given: NDArray[np.float32], valid: NDArray[np.int32] | None = None
    ) -> list[NDArray[np.float32]]:
        """Layer outputs, or a waveform artifact's embedding; see ``Network.run``.

        Raises:
            ArtifactError: outputs that the spec does not say.
            BackendError: the library failed, memory that ran out included.
        """
        onnx = self._session()
        feed = fed(self.spec, given, valid) if self.spec.masked else {onnx.input: given}
        try:
            outputs: list[NDArray[np.float32]] = onnx.session.run(onnx.outputs, feed)
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime failed on {onnx.input} {list(given.shape)}: {first_line(error)}"
            ) from error
        self._check(given.shape, tuple(output.shape for output in outputs))
        return outputs

    def after_fork(self) -> None:
        """Let go of a session that has lost its threads, and would wait for them when freed."""
        if self._onnx is not None:
            never_free(self._onnx)
        self._onnx, self._lock = None, threading.Lock()

    def _session(self) -> OnnxSession:
        """The session; opened again by the first call in a forked process."""
        onnx = self._onnx
        if onnx is None:
            with self._lock:
                if self._onnx is None:
                    if _state(self._path) != self._state:
                        raise BackendError(
                            f"{self._path} is not the file any more that this engine was opened "
                            "with, before this process was forked: open it anew"
                        )
                    self._onnx = self._open(self._path)
                onnx = self._onnx
        return onnx

    def _open(self, path: Path) -> OnnxSession:
        return OnnxSession(
            path,
            providers=["CPUExecutionProvider"],
            threads=self._threads,
            spinning=self._spinning,
        )


def _precision(path: Path) -> str:
    """What the spec says; of a file without one, which is refused once it is loaded, nothing."""
    try:
        return read_spec(path).precision
    except ArtifactError:
        return ""


def _cpu_form(path: Path) -> bytes:
    """An INT8 artifact as the CPU's kernels take it."""
    import onnx

    from .precision.eight_bits import cpu_form

    model = cpu_form(onnx.load(path), read_spec(path), saturates=saturates())
    return bytes(model.SerializeToString())


def _state(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from another one in its place."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _require_threads(count: int) -> None:
    """Start as many threads as ONNX Runtime will, which waits for ever where it cannot.

    Raises:
        BackendError: they cannot be started.
    """
    end = threading.Event()
    threads = [threading.Thread(target=end.wait, daemon=True) for _ in range(count - 1)]
    started = 0
    try:
        for thread in threads:
            thread.start()
            started += 1
    except (RuntimeError, MemoryError) as error:
        raise BackendError(
            f"{count} threads cannot be started, only {started + 1} ({error}): ask for fewer with "
            "threads=, or raise the limits of this process (ulimit -u, ulimit -v, pids.max)"
        ) from error
    finally:
        end.set()
        for thread in threads[:started]:
            thread.join()


def is_out_of_memory(error: Exception) -> bool:
    """Whether a library failed because memory ran out."""
    return isinstance(error, MemoryError) or re.search(_NO_MEMORY, str(error)) is not None


def first_line(error: Exception) -> str:
    """What an error of ONNX Runtime says first; names in it may be a file's, of any length."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]
