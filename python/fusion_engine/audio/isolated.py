"""libsndfile in processes of its own.

What a stranger's file does to a decoder stays there: one that hangs or crashes is one file's error,
and what libmpg123 writes to standard error is caught per file. A thread could do none of this: it
cannot be ended, and standard error belongs to all threads. A process starts in a quarter of a
second and is used for one file after another, each of which costs half a millisecond.
"""

import atexit
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError
from . import sample_source
from .sample_source import BrokenError, CannotOpenError

logger = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("worker.py")
_HEADER = struct.Struct("<cI")
# libsndfile's length of a stream that does not say (SF_COUNT_MAX).
_UNKNOWN_SAMPLES = 2**63 - 1


class _Worker:
    """A process that decodes one file at a time."""

    def __init__(self) -> None:
        environment = os.environ | {
            # Where this process found soundfile; and NumPy needs no threads there.
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OPENBLAS_NUM_THREADS": "1",
        }
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", os.fspath(_PROGRAM)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=environment,
                    # Ctrl-C is for us to answer; it ends when our end of the socket does.
                    process_group=0,
                )
            except OSError as error:
                ours.close()
                raise BackendError(
                    f"a process for decoding cannot be started ({error.strerror}); raise the "
                    "limits on memory and processes"
                ) from error
        self._socket = ours
        # Kept: new memory costs more than what is copied into it.
        self._memory = bytearray()

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def ask(self, request: dict[str, Any], file: int) -> None:
        body = json.dumps(request).encode()
        self._socket.settimeout(sample_source.BLOCK_TIMEOUT + 1)
        try:
            socket.send_fds(self._socket, [struct.pack("<I", len(body))], [file])
            self._socket.sendall(body)
        except OSError as error:
            raise self._lost(error) from error

    def answer(self) -> tuple[bytes, memoryview]:
        """The next message; it lies where the one after it will be.

        Raises:
            BrokenError: the process is gone or does not answer.
        """
        try:
            tag, size = _HEADER.unpack(self._receive(_HEADER.size))
            return tag, self._receive(size)
        except OSError as error:
            raise self._lost(error) from error

    def _receive(self, size: int) -> memoryview:
        if size > len(self._memory):
            self._memory = bytearray(size)
        whole = view = memoryview(self._memory)[:size]
        while view:
            count = self._socket.recv_into(view)
            if count == 0:
                raise ConnectionResetError
            view = view[count:]
        return whole

    def _lost(self, error: OSError) -> BrokenError:
        late = isinstance(error, TimeoutError)
        if not late:
            try:
                code = self._process.wait(sample_source.BLOCK_TIMEOUT)
            except subprocess.TimeoutExpired:
                late = True
            else:
                if code != -signal.SIGALRM:
                    how = f"signal {-code}" if code < 0 else f"exit status {code}"
                    return BrokenError(f"the decoder crashed: {how}")
        return BrokenError(f"the decoder did not answer within {sample_source.BLOCK_TIMEOUT} s")

    def end(self) -> None:
        """End it; one that hangs in the kernel is abandoned."""
        self._socket.close()
        self._process.kill()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            _ended.append(self._process)


_lock = threading.Lock()
_idle: list[_Worker] = []
# Kept from the garbage collector, which would complain.
_ended: list["subprocess.Popen[bytes]"] = []


def _take() -> _Worker:
    while True:
        with _lock:
            worker = _idle.pop() if _idle else None
        if worker is None:
            return _Worker()
        if worker.alive():
            return worker
        worker.end()


@atexit.register
def _dismiss_all() -> None:
    with _lock:
        workers, _idle[:] = list(_idle), []
    for worker in workers:
        worker.end()


def _forget_all() -> None:
    """In a forked process: the workers are its parent's, and so may a lock be."""
    global _lock
    _lock = threading.Lock()
    for worker in _idle:
        worker._socket.close()
        worker._process.returncode = 0  # not this process's child
    _idle.clear()
    _ended.clear()


os.register_at_fork(after_in_child=_forget_all)


class SndfileSource:
    """An open file that libsndfile decodes; see ``SampleSource``.

    Args:
        file: a descriptor, at the start of the file.
        name: of the file, in the log.
        patches: see ``Contents``.
        sequential: see ``Contents``.

    Raises:
        CannotOpenError: libsndfile does not read it.
        BrokenError: it crashed, or did not answer.
        BackendError: no process can be started.
    """

    def __init__(
        self,
        file: int,
        name: str,
        patches: tuple[tuple[int, bytes], ...] = (),
        *,
        sequential: bool = False,
    ) -> None:
        request = {
            "patches": [(at, patch.hex()) for at, patch in patches],
            "sequential": sequential,
            "block": sample_source.BLOCK,
            "patience": sample_source.BLOCK_TIMEOUT,
        }
        self._name = name
        self._worker: _Worker | None = _take()
        sample_source.waiting_for(self._worker.kill)
        try:
            self._worker.ask(request, file)
            tag, body = self._worker.answer()
            if tag != b"O":
                raise CannotOpenError(self._finish(tag, body))
        except BaseException:
            self.close()
            raise
        opened = json.loads(bytes(body))
        self.rate: int = opened["rate"]
        self.channels: int = opened["channels"]
        known = opened["format"] != "MP3" and 0 <= opened["samples"] < _UNKNOWN_SAMPLES
        # Of an MP3 it is a guess, and a pipe has none.
        self.announced: int | None = opened["samples"] if known and not sequential else None

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """See ``SampleSource``."""
        assert self._worker is not None
        try:
            while True:
                # Another thread may have decoded the block before.
                sample_source.waiting_for(self._worker.kill)
                tag, body = self._worker.answer()
                if tag != b"S":
                    reason = self._finish(tag, body)
                    if reason:
                        raise BrokenError(reason)
                    return
                yield np.frombuffer(body, np.float32).reshape(-1, self.channels)
        finally:
            self.close()

    def _finish(self, tag: bytes, body: memoryview) -> str:
        """What went wrong, if anything; the worker is free for the next file."""
        assert self._worker is not None
        sample_source.waiting_for(None)
        with _lock:
            _idle.append(self._worker)
        self._worker = None
        end = json.loads(bytes(body))
        for line in filter(None, map(str.strip, end["log"].splitlines())):
            logger.debug("%s: %s", self._name, line)
        if tag == b"M":
            raise MemoryError
        return str(end.get("reason", ""))

    def close(self) -> None:
        """See ``SampleSource``."""
        worker, self._worker = self._worker, None
        if worker is not None:
            sample_source.waiting_for(None)
            worker.end()
