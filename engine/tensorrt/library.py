"""The libraries `tensorrt` (10 and 11) and `tensorrt_rtx`, which share one API."""

import importlib
import importlib.util
import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..._install import install
from ...errors import BackendError

logger = logging.getLogger(__name__)

Runtime = Literal["tensorrt", "tensorrt_rtx"]
# In the order of preference.
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

EXTRAS: dict[Runtime, str] = {"tensorrt": "gpu", "tensorrt_rtx": "rtx"}
# Below these, networks are not strongly typed throughout, or the API is another one.
_LEAST: dict[Runtime, tuple[int, int]] = {"tensorrt": (10, 10), "tensorrt_rtx": (1, 4)}

# TensorRT says a line per layer and tactic: below DEBUG.
VERBOSE = 5

_loaded: dict[Runtime, "Library"] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Library:
    """A TensorRT library that is loaded.

    Args:
        runtime: its module's name.
        version: its version, for example ``10.13.3.9``.
        module: the module.
        logger: the one logger of this process, to be given to its ``Builder`` and ``Runtime``.
        ears: those who listen to it, see ``listen``.
    """

    runtime: Runtime
    version: str
    module: Any = field(repr=False)
    logger: Any = field(repr=False)
    ears: "_Ears" = field(repr=False)

    def __str__(self) -> str:
        return f"{self.runtime} {self.version}"

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT for RTX."""
        return self.runtime == "tensorrt_rtx"

    @contextmanager
    def listen(self) -> Iterator["Heard"]:
        """Collect what the library says; its calls report an error by returning ``None``.

        Errors are then not logged as well, since whoever collects them raises them. The logger is
        one for the process: what another thread's call says meanwhile is heard too.
        """
        with self.ears.listen() as heard:
            yield heard


@dataclass(frozen=True)
class Heard:
    """The last things that a library said.

    Args:
        errors: what went wrong.
        notes: what it calls information.
    """

    errors: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=256))

    def reason(self, otherwise: str) -> str:
        """The errors in one line, each once; ``otherwise`` where there were none."""
        return "; ".join(dict.fromkeys(self.errors)) or otherwise


def installed_runtimes() -> list[Runtime]:
    """The libraries that are installed, the preferred one first; none is loaded."""
    specs = {name: importlib.util.find_spec(name) for name in RUNTIMES}
    # Without an origin it is a folder of that name, not a package.
    return [name for name, spec in specs.items() if spec is not None and spec.origin is not None]


def import_tensorrt(runtime: str | None = None) -> Library:
    """Load a TensorRT library.

    Args:
        runtime: ``tensorrt`` or ``tensorrt_rtx``; ``None``: the one that is installed, `tensorrt`
            where both are. The choice is logged.

    Raises:
        BackendError: it is not installed, does not load, or is too old.
        ValueError: a ``runtime`` that does not exist.
    """
    name = _chosen(runtime)
    with _lock:
        if name not in _loaded:
            _loaded[name] = _load(name)
        return _loaded[name]


def _chosen(runtime: str | None) -> Runtime:
    for name in RUNTIMES:
        if runtime == name:
            return name
    if runtime is not None:
        raise ValueError(f"runtime is {runtime!r}, expected one of {list(RUNTIMES)}")
    return preferred(installed_runtimes())


def preferred(fitting: Sequence[Runtime]) -> Runtime:
    """The library to take of those that are installed and will do; logs it.

    Raises:
        BackendError: there is none.
    """
    if not fitting:
        raise BackendError(
            "neither tensorrt nor tensorrt_rtx is installed. On a machine with a data-centre GPU: "
            f"{install('gpu')}. With a GeForce or RTX GPU, or to build plans for one on "
            f"a machine without: {install('rtx')}"
        )
    chosen, why = fitting[0], "the only one installed"
    for other in installed_runtimes():
        if other != chosen:
            fits = other in fitting
            why = f"preferred to {other}" if fits else f"since {other} does not serve this GPU"
    logger.info("runtime: %s, %s", chosen, why)
    return chosen


def _load(name: Runtime) -> Library:
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:  # they load libraries by themselves
        raise BackendError(
            f"{name} cannot be imported ({error}). Install it: {install(EXTRAS[name])}"
        ) from error
    version = str(module.__version__)
    least = _LEAST[name]
    if tuple(int(part) for part in version.split(".")[:2]) < least:
        raise BackendError(
            f"{name} {version} is too old, expected {least[0]}.{least[1]} or newer. "
            f"Upgrade it: {install(EXTRAS[name], upgrade=True)}"
        )
    logger.info("loaded %s %s", name, version)
    ears = _Ears()
    return Library(name, version, module, _make_logger(module, name, ears), ears)


class _Ears:
    """Those who listen to one library."""

    def __init__(self) -> None:
        self._all: list[Heard] = []
        self._lock = threading.Lock()

    @contextmanager
    def listen(self) -> Iterator[Heard]:
        heard = Heard()
        with self._lock:
            self._all.append(heard)
        try:
            yield heard
        finally:
            with self._lock:
                # By identity: two may have heard the same.
                self._all = [one for one in self._all if one is not heard]

    def error(self, message: str) -> bool:
        """Whether anybody listened."""
        with self._lock:
            for heard in self._all:
                heard.errors.append(message)
            return bool(self._all)

    def note(self, message: str) -> None:
        with self._lock:
            for heard in self._all:
                heard.notes.append(message)


def _make_logger(module: Any, name: str, ears: _Ears) -> Any:
    """The library's ILogger that forwards to ``logging``."""
    severity = module.ILogger.Severity
    # What TensorRT calls information is of use to those who debug it.
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: VERBOSE,
    }

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            level = levels[severity]
            if level == logging.DEBUG:
                ears.note(message)
            elif level == logging.ERROR and ears.error(message):
                level = logging.DEBUG
            logger.log(level, "%s: %s", name, message)

    return Logger()
