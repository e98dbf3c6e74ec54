"""The runner on a GPU."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import AudioError, BackendError, FusionEngineError
from ...spec import Head, Spec
from ..cut import Batch, Cut, Cutting, Piece, Refused
from ..runner import ClipState, Flags, Runner, RunResult, Samples, SampleType, not_finite
from ..stats import Meter
from .arrays import DeviceArray, read_array
from .batch import BatchKey, BatchProgram, ResidentProgram, batch_key, sample_type
from .cuda_network import CudaNetwork
from .dlpack import Imported
from .driver import Cuda, Memory, OutOfMemory, Stream
from .inputs import Inputs
from .kernels import Kernels
from .long_clips import DeviceSamples, Pass
from .model import Model
from .slots import MemoryLayout, Slot, SlotPool

# Samples from one row to the next, of an array that the frontend reads where it is.
MAX_STRIDE = 1 << 30


class CudaRunner(Runner):
    """Runs a network on a GPU, the whole way from samples to embedding.

    Args:
        cuda: the GPU.
        network: the network, loaded on it; closed with the runner.
        kernels: frontend and layer fusion.
        spec: the artifact's, with the normalisation that the caller asked for.
        contexts: calls that run at once.
        memory_limit: bytes of device memory of all slots; ``None``: half of the GPU's.
        meter: where what was done is added up.
    """

    checks_samples = keeps_in_flight = True

    def __init__(
        self,
        cuda: Cuda,
        network: CudaNetwork,
        kernels: Kernels,
        spec: Spec,
        *,
        contexts: int,
        memory_limit: int | None,
        meter: Meter,
    ) -> None:
        self.spec = spec
        self.device = f"cuda:{cuda.info.index}"
        self.name = f"{network.name} on {cuda.info.name}"
        self._cuda, self._meter = cuda, meter
        self._calls = _Calls()
        self._streams = deque[Stream]()
        self._inputs = Inputs(cuda)
        segment, most = spec.segment, network.max_frames
        if segment is not None:
            most = network.segments_per_run(segment.frames) * segment.frames
        self.cutting = Cutting(
            spec,
            min_frames=network.min_frames,
            max_frames=network.max_frames,
            run_frames=most,
            pieces_per_run=network.segments_per_run,
        )
        limit = memory_limit or cuda.info.total_memory // 2
        with cuda.current():
            self._slots = SlotPool(cuda, network, contexts=contexts, limit=limit)
            self._stream = cuda.stream()
            try:
                tables = kernels.tables
                memory = self._slots.transient(tables.nbytes, self._stream, "the frontend")
                cuda.copy(memory.address, tables.ctypes.data, tables.nbytes, self._stream)
                self._stream.synchronize()
            except BaseException:
                self._stream.close()
                raise
        self._model = Model(cuda, network, kernels, spec, memory)

    def run(self, clips: Sequence[Samples], cut: Cut, head: Head) -> RunResult:  # noqa: D102
        # What a warm call takes of Python: a few calls more are a tenth of its time.
        key, bind, in_place = self._batch(clips, cut, head)
        start = perf_counter()
        try:
            with self._calls:
                slot = self._slots.take(key, bind)
                try:
                    result: RunResult
                    result, graph = slot.program.run(clips, in_place)
                except BaseException:
                    self._slots.drop(slot)
                    raise
                self._slots.give_back(slot)
        except Exception as error:
            self._raise_readable(error)
            raise
        amounts = {"runs": 1, "uncaptured_runs": not graph, "gpu_seconds": perf_counter() - start}
        self._meter.amounts.append(amounts)
        return result

    def start(  # noqa: D102
        self, clips: Sequence[Samples], cut: Cut, head: Head
    ) -> Callable[[], RunResult] | None:
        key, bind, in_place = self._batch(clips, cut, head)
        start = perf_counter()
        try:
            slot = self._slots.take(key, bind, wait=False)
            if slot is None:
                return None
            try:
                slot.program.start(clips, in_place)
            except BaseException:
                self._slots.drop(slot)
                raise
        except Exception as error:
            self._raise_readable(error)
            raise
        return partial(self._finish, slot, perf_counter() - start)

    def _batch(
        self, clips: Sequence[Samples], cut: Cut, head: Head
    ) -> tuple[BatchKey, Callable[[Slot], BatchProgram], bool]:
        """The key of a batch, what binds a slot to it, and whether the clips are page-locked."""
        dtype = sample_type(clips)
        in_place = bool(self._inputs.ends) and self._inputs.hold(clips, dtype)
        key = batch_key(len(clips), cut, dtype=dtype, head=head)
        bind = partial(BatchProgram, self._slots, self._model, key, cut.pieces)
        return key, bind, in_place

    def input(self, clips: int, samples: int, dtype: SampleType) -> NDArray[Any]:  # noqa: D102
        try:
            with self._calls:
                return self._inputs.new(clips, samples, dtype)
        except Exception as error:
            self._raise_readable(error)
            raise

    def _finish(self, slot: Slot, seconds: float) -> RunResult:
        """The result of what ``start`` began, which took so long."""
        start = perf_counter()
        try:
            try:
                result: RunResult
                result, graph = slot.program.finish()
            except BaseException:
                self._slots.drop(slot)
                raise
            self._slots.give_back(slot)
        except Exception as error:
            self._raise_readable(error)
            raise
        seconds += perf_counter() - start
        self._meter.amounts.append(
            {"runs": 1, "uncaptured_runs": not graph, "gpu_seconds": seconds}
        )
        return result

    def clip_state(self) -> ClipState:  # noqa: D102
        with self._call():
            return _ClipState(self, Pass(self._model, self._slots))

    def layer_outputs(  # noqa: D102
        self, samples: Samples, pieces: Sequence[Piece]
    ) -> list[NDArray[np.float32]]:
        with self._call():
            self._count(False)
            return Pass(self._model, self._slots).layer_outputs(samples, pieces)

    def embed_on_device(self, audio: Any, head: Head) -> DeviceArray:  # noqa: D102
        with self._call(), self._own_stream() as stream:
            return self._embed_array(read_array(audio, self._cuda, stream), head, stream)

    def figures(self) -> dict[str, int]:  # noqa: D102
        return self._slots.figures()

    def call(self) -> "_Calls":  # noqa: D102
        return self._calls

    def close(self) -> None:  # noqa: D102
        self._calls.close()
        with self._cuda.current():
            self._slots.close()
            self._inputs.free()
            for stream in self._streams:
                stream.close()
            self._model.tables.close(self._stream)
            self._stream.synchronize()
            self._stream.close()
            self._model.network.close()
            self._cuda.close()

    def _embed_array(self, array: Imported, head: Head, stream: Stream) -> DeviceArray:
        """Embed clips [N] or [B, N], for which ``stream`` has waited."""
        clips, length = (1, *array.shape) if len(array.shape) == 1 else array.shape
        dtype: SampleType = "int16" if array.dtype == np.int16 else "float32"
        dim = self.spec.embedding_dim
        layout = MemoryLayout()
        embedding, flags = layout.add(4 * clips * dim), layout.add(8 * clips)
        memory = self._slots.transient(layout.size, stream, f"embeddings of {clips} clips")
        try:
            self._cuda.fill(memory.address + flags, 0, 2 * clips, stream)
            rows = self._readable_rows(array, clips, length, stream)
            begin = self._cuda.record(stream)
            for part in self.cutting.batches([length] * clips):
                if isinstance(part, Refused):
                    raise part.error
                first = part.rows[0] if isinstance(part, Batch) else part.row
                source = rows.address + first * rows.stride * array.dtype.itemsize
                target = memory.address + embedding + 4 * first * dim
                flag = memory.address + flags + 4 * first
                if isinstance(part, Batch):
                    count = len(part.rows)
                    key = batch_key(count, part.cut, dtype=dtype, head=head, resident=length)
                    bind = partial(ResidentProgram, self._slots, self._model, key, part.cut.pieces)
                    with self._slots.lease(key, bind) as slot:
                        self._cuda.wait(slot.stream.handle, begin)
                        graph = slot.program.run(
                            source, rows.stride, target, flag, flag + 4 * clips
                        )
                        self._cuda.wait(stream.handle, self._cuda.record(slot.stream))
                        self._count(graph)
                else:
                    samples = DeviceSamples(source, length, dtype, begin)
                    self._embed_resident_clip(samples, head, target, flag, clips)
        except BaseException:
            stream.synchronize()  # what was queued still writes there
            raise
        if rows.copy is not None:
            rows.copy.close(stream)
        seconds = clips * length / self.spec.frontend.sample_rate
        self._meter.amounts.append({"clips": clips, "audio_seconds": seconds})
        ready = self._cuda.record(stream)
        memory.last, memory.source = ready, array.owner
        return DeviceArray(
            self._cuda,
            memory,
            (*array.shape[:-1], dim),
            ready=ready,
            flags=flags,
            raise_for=self._raise_for,
        )

    def _readable_rows(self, array: Imported, clips: int, length: int, stream: Stream) -> "_Rows":
        """Clips as the frontend takes them: where they are, if it can read them there."""
        size = array.dtype.itemsize
        stride = array.strides[0] if clips > 1 else length
        if length <= stride <= MAX_STRIDE and array.address % size == 0:
            return _Rows(array.address, stride)
        copy = self._slots.transient(clips * length * size, stream, f"a copy of {clips} clips")
        for row in range(clips):
            source = array.address + row * stride * size
            self._cuda.copy(copy.address + row * length * size, source, length * size, stream)
        return _Rows(copy.address, length, copy)

    def _embed_resident_clip(
        self, samples: DeviceSamples, head: Head, embedding: int, flags: int, total: int
    ) -> None:
        """A clip longer than a run; its embedding and flags are there when this returns."""
        clip = Pass(self._model, self._slots)
        size = np.dtype(samples.dtype).itemsize
        for run in self.cutting.runs("audio").of(samples.count, ended=True):
            part = replace(
                samples, address=samples.address + run.first * size, count=run.stop - run.first
            )
            clip.add(part, run.pieces)
            self._count(False)
        clip.finish(head, embedding, flags, flags + 4 * total)

    def _raise_for(self, layers: Flags, samples: Flags) -> None:
        if samples.any():
            clip = int(np.flatnonzero(samples)[0])
            raise AudioError(
                f"clip {clip}: a sample is not finite, expected finite values in [-1, 1]"
            )
        for index, flag in enumerate(layers):
            if flag:
                raise not_finite(self.spec, flag, f"clip {index}")

    def _count(self, graph: bool) -> None:
        self._meter.amounts.append({"runs": 1, "uncaptured_runs": 0 if graph else 1})

    @contextmanager
    def _call(self) -> Iterator[None]:
        """A call under way that speaks to CUDA."""
        try:
            with self._calls, self._cuda.current():
                start = perf_counter()
                yield
                self._meter.amounts.append({"gpu_seconds": perf_counter() - start})
        except Exception as error:
            self._raise_readable(error)
            raise

    @contextmanager
    def _own_stream(self) -> Iterator[Stream]:
        """A stream for one call; when the call ends, its work goes on."""
        try:
            stream = self._streams.popleft()
        except IndexError:
            stream = self._cuda.stream()
        try:
            yield stream
        finally:
            self._streams.append(stream)

    def _raise_readable(self, error: Exception) -> None:
        """Raise what CUDA and the kernels raise as a ``BackendError``; nothing of the rest."""
        if isinstance(error, OutOfMemory):
            raise BackendError(f"out of memory: {error} were asked for") from error
        if isinstance(error, FusionEngineError):
            return
        # cuda-core has no public base of its errors; the kernels raise RuntimeError.
        if isinstance(error, RuntimeError) or type(error).__module__.startswith("cuda."):
            raise BackendError(f"{self.device} failed: {error}") from error


class _Rows(NamedTuple):
    """Clips in device memory, ``stride`` samples apart; ``copy``: what they were copied to."""

    address: int
    stride: int
    copy: Memory | None = None


class _Calls:
    """The calls under way, which closing waits for; as a context, one more."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count, self._closed = 0, False
        self._thread = _Thread()

    def __enter__(self) -> None:
        with self._changed:
            if self._closed and not self._thread.calls:
                raise BackendError("this engine was closed: open the artifact again")
            self._count += 1
        self._thread.calls += 1

    def __exit__(self, *error: object) -> None:
        self._thread.calls -= 1
        with self._changed:
            self._count -= 1
            if self._closed:
                self._changed.notify_all()

    def close(self) -> None:
        """Let no more begin, and wait for those under way."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._count == 0)


class _Thread(threading.local):
    """The calls that a thread has under way."""

    calls = 0


class _ClipState(ClipState):
    def __init__(self, runner: CudaRunner, clip: Pass) -> None:
        self._runner, self._clip = runner, clip

    def add(
        self,
        samples: Samples,
        pieces: Sequence[Piece],
        frames: NDArray[np.float32] | None = None,
    ) -> None:
        with self._runner._call():
            self._clip.add(samples, pieces, frames)
            self._runner._count(False)

    def finish(self, head: Head) -> tuple[NDArray[np.float32], np.uint32]:
        with self._runner._call():
            return self._clip.download(head)
