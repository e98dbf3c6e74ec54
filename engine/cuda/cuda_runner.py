"""The runner on a GPU."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import AudioError, BackendError, FusionEngineError
from ...spec import Head, Spec
from ..cut import Batch, Cut, Cutting, Piece, Refused
from ..runner import ClipState, Flags, Runner, Samples, Sink, not_finite
from ..stats import Meter
from .arrays import DeviceArray, read_array
from .batch import BatchKey, BatchProgram, batch_key, sample_type
from .cuda_network import CudaNetwork
from .dlpack import Imported
from .driver import Cuda, OutOfMemory, Stream
from .kernels import Kernels, SampleType
from .long_clips import DeviceSamples, Pass
from .model import Model
from .slots import MemoryLayout, Slot, SlotPool


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
        self._changed = threading.Condition()
        self._calls, self._closed = 0, False
        self._thread = _Thread()
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

    def run(self, clips: Sequence[Samples], cut: Cut, head: Head, sink: Sink) -> None:  # noqa: D102
        key = batch_key(len(clips), cut, dtype=sample_type(clips), head=head)
        with self._call(), self._slots.lease(key, self._binder(key, cut.pieces)) as slot:
            embeddings, flags, graph = slot.program.run(clips)
            self._count(graph)
        sink(embeddings, flags)

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
        with self._call():
            stream = self._cuda.stream()
            try:
                return self._embed_array(read_array(audio, self._cuda, stream), head, stream)
            finally:
                stream.close()  # its work goes on

    def figures(self) -> dict[str, int]:  # noqa: D102
        return self._slots.figures()

    def close(self) -> None:  # noqa: D102
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._calls == 0)
        with self._cuda.current():
            self._slots.close()
            self._model.tables.close(self._stream)
            self._stream.synchronize()
            self._stream.close()
            self._model.network.close()
            self._cuda.close()

    def _embed_array(self, array: Imported, head: Head, stream: Stream) -> DeviceArray:
        """Embed clips [N] or [B, N], for which ``stream`` has waited."""
        clips, length = (1, *array.shape) if len(array.shape) == 1 else array.shape
        dtype: SampleType = "int16" if array.dtype == np.int16 else "float32"
        step = array.strides[0] * array.dtype.itemsize
        dim = self.spec.embedding_dim
        layout = MemoryLayout()
        embedding, flags = layout.add(4 * clips * dim), layout.add(8 * clips)
        memory = self._slots.transient(layout.size, stream, f"embeddings of {clips} clips")
        begin = self._cuda.record(stream)
        try:
            for part in self.cutting.batches([length] * clips):
                if isinstance(part, Refused):
                    raise part.error
                rows = part.rows if isinstance(part, Batch) else [part.row]
                sources = [array.address + row * step for row in rows]
                target = memory.address + embedding + 4 * rows[0] * dim
                flag = memory.address + flags + 4 * rows[0]
                if isinstance(part, Batch):
                    key = batch_key(len(rows), part.cut, dtype=dtype, head=head, resident=length)
                    with self._slots.lease(key, self._binder(key, part.cut.pieces)) as slot:
                        self._cuda.wait(slot.stream.handle, begin)
                        graph = slot.program.run_resident(sources, target, flag, clips)
                        self._cuda.wait(stream.handle, self._cuda.record(slot.stream))
                        self._count(graph)
                else:
                    samples = DeviceSamples(sources[0], length, dtype, begin)
                    self._embed_resident_clip(samples, head, target, flag, clips)
        except BaseException:
            stream.synchronize()  # what was queued still writes there
            raise
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

    def _binder(self, key: BatchKey, pieces: Sequence[Piece]) -> Callable[[Slot], BatchProgram]:
        def bind(slot: Slot) -> BatchProgram:
            program = BatchProgram(slot, self._slots, self._model, key)
            program.bind(pieces)
            return program

        return bind

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
    def call(self) -> Iterator[None]:  # noqa: D102
        with self._changed:
            if self._closed and not self._thread.calls:
                raise BackendError("this engine was closed: open the artifact again")
            self._calls += 1
        self._thread.calls += 1
        try:
            yield
        finally:
            self._thread.calls -= 1
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    @contextmanager
    def _call(self) -> Iterator[None]:
        """A call under way; what CUDA and the kernels raise becomes a ``BackendError``."""
        try:
            with self.call(), self._cuda.current():
                start = perf_counter()
                yield
                self._meter.amounts.append({"gpu_seconds": perf_counter() - start})
        except OutOfMemory as error:
            raise BackendError(f"out of memory: {error} were asked for") from error
        except FusionEngineError:
            raise
        except Exception as error:
            # cuda-core has no public base of its errors; the kernels raise RuntimeError.
            if isinstance(error, RuntimeError) or type(error).__module__.startswith("cuda."):
                raise BackendError(f"{self.device} failed: {error}") from error
            raise


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
