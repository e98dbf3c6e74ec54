"""Progress of a build, and a way to stop one."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

_T = TypeVar("_T")


# Called from another thread with a phase, how many of its steps are done (0 at its start), and how
# many it has; phases nest.
BuildProgress = Callable[[str, int, int], None]


def run_cancellable(work: Callable[[threading.Event], _T]) -> _T:
    """``work(cancelled)`` in a thread of its own.

    Signals are the main thread's: an exception in a callback of TensorRT would be lost, so Ctrl-C
    sets ``cancelled`` here, and goes on once the work has stopped.
    """
    cancelled = threading.Event()
    with ThreadPoolExecutor(1, "fusion_engine-build") as pool:
        try:
            return pool.submit(work, cancelled).result()
        except BaseException:
            cancelled.set()
            raise


def make_monitor(module: Any, cancelled: threading.Event, progress: BuildProgress | None) -> Any:
    """TensorRT's IProgressMonitor that stops once ``cancelled`` and reports to ``progress``.

    What ``progress`` raises stops the build as well, and is then its attribute ``failure``.
    """

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._steps = dict[str, int]()
            self.failure: Exception | None = None

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = steps
            self._tell(name, 0, steps)

        def step_complete(self, name: str, step: int) -> bool:
            self._tell(name, step + 1, self._steps.get(name, step + 1))
            return not cancelled.is_set()

        def phase_finish(self, name: str) -> None:
            steps = self._steps.get(name, 0)
            self._tell(name, steps, steps)

        def _tell(self, phase: str, step: int, steps: int) -> None:
            if progress is None or self.failure is not None:
                return
            try:
                progress(phase, step, steps)
            except Exception as error:  # the caller's own; TensorRT would print and drop it
                self.failure = error
                cancelled.set()

    return Monitor()
