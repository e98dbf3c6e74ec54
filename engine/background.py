"""Calls in threads of the engine's own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """Runs calls in the order in which they come, some at once; its threads start with the first.

    Args:
        most: that run at once.
    """

    def __init__(self, most: int) -> None:
        self.most, self._lock = most, threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """The future of a call; cancelling it works until it begins."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.most, thread_name_prefix="fusion_engine")
            return self._executor.submit(call, *arguments)

    def close(self) -> None:
        """Cancel what has not begun, and wait for the rest; a later call starts anew."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
