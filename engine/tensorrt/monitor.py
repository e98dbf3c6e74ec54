"""Progress of a build, and a way to stop one."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")


# Called from another thread with a phase, how many of its steps are done (0 at its start), and how
# many it has; phases nest.
BuildProgress = Callable[[str, int, int], None]


def run_cancellable(work: Callable[[threading.Event], _T]) -> _T:
    """``work(cancelled)`` in a thread of its own, which has ended when this returns or raises.

    Signals are the main thread's: an exception in a callback of TensorRT would be lost, so Ctrl-C
    sets ``cancelled`` here, and goes on once the work has stopped.
    """
    cancelled, begun, lock = threading.Event(), threading.Event(), threading.Lock()
    future: Future[_T] = Future()

    def run() -> None:
        with lock:
            if cancelled.is_set():
                return
            begun.set()
        try:
            future.set_result(work(cancelled))
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="fusion_engine-build")
    try:
        # Ctrl-C may come in here too, when an executor would not know its thread yet.
        thread.start()
        return future.result()
    finally:
        with lock:
            cancelled.set()
        if begun.is_set():
            thread.join()


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
