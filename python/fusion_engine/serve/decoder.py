"""A stranger's bytes to samples, with bounds on time and length.

What decodes is a process of its own (``audio/isolated.py``): a file that crashes it is one input's
error. The threads here only wait for it.
"""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio import sample_source
from ..audio.decode import Decoding
from ..errors import AudioError
from .reply import RequestError, of_engine

Samples = NDArray[np.float32]


class Decoder:
    """Decodes recordings that lie in memory.

    Args:
        sample_rate: of the samples, in Hz.
        seconds: that one recording may take; what hangs is ended then.
        threads: recordings that are decoded at once.
    """

    def __init__(self, sample_rate: int, seconds: float, threads: int) -> None:
        self._rate, self._seconds = sample_rate, seconds
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fusion_engine-serve-decode")

    async def decode(self, data: bytes, most_seconds: float, name: str) -> Samples:
        """The samples [N] of a recording, all channels mixed.

        Args:
            data: the file's bytes.
            most_seconds: of audio; decoding stops there.
            name: of the recording, in errors.

        Raises:
            RequestError: 413, 415, 422, 503 or 504; it names the recording.
        """
        loop = asyncio.get_running_loop()
        job = _Job(data, self._rate, round(most_seconds * self._rate))
        # From its first step on: waiting for a thread is no fault of the recording.
        job.started = lambda: loop.call_soon_threadsafe(begin)
        timers: list[asyncio.TimerHandle] = []

        def begin() -> None:
            timers.append(loop.call_later(self._seconds, job.stop))

        try:
            samples = await loop.run_in_executor(self._pool, job.run)
        except (AudioError, MemoryError) as error:
            if job.stopped:
                raise RequestError(
                    504,
                    "decode_timeout",
                    f"{name}: was not decoded within {self._seconds:g} s; send a shorter "
                    "recording, or WAV or FLAC",
                    name,
                ) from None
            raise of_engine(error, name) from None
        finally:
            # Also where the request was given up: nobody waits for the rest.
            job.stop()
            for timer in timers:
                timer.cancel()
        if samples is None:
            raise RequestError(
                413,
                "audio_too_long",
                f"{name}: the audio of a request is limited, and this recording is longer than the "
                f"{most_seconds:g} s that are left of it; cut it",
                name,
            )
        return samples


class _Job:
    """One recording; ``run`` in a thread, ``stop`` from any other."""

    def __init__(self, data: bytes, rate: int, most: int) -> None:
        self._data, self._rate, self._most = data, rate, most
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.stopped = False
        self.started: Any = None

    def run(self) -> Samples | None:
        """The samples; None where there are more than ``most``."""
        with self._lock:
            if self.stopped:
                raise AudioError("nobody waits for it")
            self._thread = threading.current_thread()
        self.started()
        # A file that has no name on any disk, and that goes with this process.
        file = os.memfd_create("recording")
        path = f"/proc/{os.getpid()}/fd/{file}"
        try:
            with open(file, "wb", closefd=False) as writer:
                writer.write(self._data)
            del self._data
            return self._decode(path)
        except AudioError as error:
            message = str(error).replace(f"{path}: ", "")
            raise AudioError(message, kind=error.kind) from None
        finally:
            sample_source.waiting_for(None)
            os.close(file)
            with self._lock:
                self._thread = None

    def _decode(self, path: str) -> Samples | None:
        blocks, length = list[Samples](), 0
        with Decoding(path, self._rate) as decoding:
            for block in decoding:
                if self.stopped:
                    raise AudioError("nobody waits for it")
                length += len(block)
                if length > self._most:
                    return None
                blocks.append(block[:, 0])
        return np.concatenate(blocks)

    def stop(self) -> None:
        """End it, also a decoder that hangs."""
        with self._lock:
            self.stopped = True
            if self._thread is not None:
                sample_source.interrupt([self._thread])
