"""One clip of any length, run by run: long clips, frame features, and layer outputs.

Device memory is that of the runs under way, and between runs what the clip has added up. Never
captured. Runs follow one another on the device; the host waits where it reads a result.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...spec import Head
from ..cut import Piece, frames_of
from ..runner import Samples, SampleType
from .batch import sample_type
from .cuda_network import LayerTensor
from .driver import Memory, Stream
from .kernels import FrameFeatures, Ranges, State
from .model import Model
from .slots import ALIGNMENT, MemoryLayout, Slot, SlotPool

NEGATIVE_INFINITY = 0xFF800000  # the bits of a float32


@dataclass(frozen=True)
class RunKey:
    """What a slot for one run of a pass depends on: S inputs of ``frames`` frames."""

    segments: int
    frames: int


@dataclass(frozen=True)
class DeviceSamples:
    """Samples in device memory.

    Args:
        ready: the event after which they are there.
    """

    address: int
    count: int
    dtype: SampleType
    ready: Any = None


class Pass:
    """What one clip has added up so far, on the device."""

    def __init__(self, model: Model, pool: SlotPool) -> None:
        self._model, self._pool = model, pool
        self._done: Any = None  # the event after which the sums hold all runs so far
        dim = model.spec.embedding_dim
        layout = MemoryLayout()
        total, rest, peak, self._embedding = (layout.add(4 * dim) for _ in range(4))
        count, self._flags = layout.add(4), layout.add(8)
        with self._stream() as stream:
            self._memory = pool.transient(layout.size, stream, "a clip's sums over time")
            base = self._memory.address
            model.cuda.fill(base, 0, layout.size // 4, stream)
            model.cuda.fill(base + peak, NEGATIVE_INFINITY, dim, stream)
        self._state = State(base + total, base + rest, base + peak, base + count, self.flags)

    @property
    def flags(self) -> int:
        """Address of the flags of layer outputs, and after them of samples."""
        return self._memory.address + self._flags

    def add(
        self,
        samples: Samples | DeviceSamples,
        pieces: Sequence[Piece],
        frames: NDArray[np.float32] | None = None,
    ) -> None:
        """Add a run; ``frames`` [D, T_o] receives its frame features."""
        ranges = np.array(
            [0, len(pieces), *(p.begin for p in pieces), *(p.count for p in pieces), 0], np.int64
        )
        with open_run(self._model, self._pool, samples, pieces, self.flags) as run:
            if self._done is not None:
                self._model.cuda.wait(run.stream.handle, self._done)
            offsets = run.upload(ranges)
            begins = offsets + 16
            counts = begins + 8 * len(pieces)
            features = None
            if frames is not None:
                start = counts + 8 * len(pieces)
                features = FrameFeatures(run.allocate(frames.nbytes), frames.shape[1], start)
            self._model.kernels.accumulate(
                run.layers,
                ranges=Ranges(offsets, begins, counts),
                state=self._state,
                frames=features,
                stream=run.stream,
            )
            if frames is not None and features is not None:
                run.download(frames, features.address)
            self._done = self._model.cuda.record(run.stream)

    def layer_outputs(self, samples: Samples, pieces: Sequence[Piece]) -> list[NDArray[np.float32]]:
        """Layer outputs of a run on the host; nothing is added."""
        with open_run(self._model, self._pool, samples, pieces, self.flags) as run:
            return run.layer_outputs()

    def finish(self, head: Head, embedding: int, flags: int, sample_flags: int) -> None:
        """Write the embedding [D] and the two flags to addresses on the device."""
        with self._stream() as stream:
            self._finalize(head, embedding, stream)
            for target, source in ((flags, self.flags), (sample_flags, self.flags + 4)):
                self._model.cuda.copy(target, source, 4, stream)

    def download(self, head: Head) -> tuple[NDArray[np.float32], np.uint32]:
        """The embedding [D] and the flags of layer outputs, on the host."""
        out = np.empty(self._model.spec.embedding_dim, np.float32)
        flags = np.empty(1, np.uint32)
        address = self._memory.address + self._embedding
        with self._stream() as stream:
            self._finalize(head, address, stream)
            for target, source in ((out, address), (flags, self.flags)):
                self._model.cuda.copy(target.ctypes.data, source, target.nbytes, stream)
        return out, flags[0]

    def _finalize(self, head: Head, embedding: int, stream: Stream) -> None:
        self._model.kernels.finalize(
            dim=self._model.spec.embedding_dim,
            state=self._state,
            head=head,
            embedding=embedding,
            stream=stream,
        )

    @contextmanager
    def _stream(self) -> Iterator[Stream]:
        """A stream that has waited for all runs, and whose work is done at the end."""
        stream = self._model.cuda.stream()
        if self._done is not None:
            self._model.cuda.wait(stream.handle, self._done)
        try:
            yield stream
        finally:
            stream.synchronize()
            stream.close()


class Run:
    """One run of the network.

    Attributes:
        stream: that its work is queued on.
        layers: its outputs.
    """

    layers: Sequence[LayerTensor] = ()

    def __init__(self, model: Model, pool: SlotPool, stream: Stream, what: str) -> None:
        self._model, self._pool, self.stream = model, pool, stream
        self._what = what
        self._memory: list[Memory] = []

    def allocate(self, size: int) -> int:
        """Address of memory that lives as long as the run."""
        self._memory.append(self._pool.transient(size, self.stream, self._what))
        return self._memory[-1].address

    def upload(self, values: NDArray[np.generic]) -> int:
        """Address of a copy of ``values``, which are not page-locked: they have been read then."""
        address = self.allocate(max(values.nbytes, 1))
        self._model.cuda.copy(address, values.ctypes.data, values.nbytes, self.stream)
        return address

    def download(self, target: NDArray[np.generic], source: int) -> None:
        """Fill a contiguous array."""
        self._model.cuda.copy(target.ctypes.data, source, target.nbytes, self.stream)
        self.stream.synchronize()

    def network_input(
        self, samples: Samples | DeviceSamples, first: int, stop: int, flags: int
    ) -> int:
        """Address of frames ``first`` to ``stop`` of log-mel; those that there are not are padding.

        It is aligned as a network wants it: what is computed of the frames before lies before it.
        """
        model = self._model
        if not isinstance(samples, DeviceSamples):
            dtype = sample_type([samples])
            host = np.ascontiguousarray(samples, dtype)
            samples = DeviceSamples(self.upload(host), len(host), dtype)
        if samples.ready is not None:
            model.cuda.wait(self.stream.handle, samples.ready)
        before = first * model.kernels.frame_bytes
        out = self.allocate(ALIGNMENT + stop * model.kernels.frame_bytes) + -before % ALIGNMENT
        model.kernels.log_mel(
            tables=model.tables.address,
            samples=samples.address,
            dtype=samples.dtype,
            clips=1,
            stride=samples.count,
            lengths=self.upload(np.array([samples.count], np.int64)),
            frames=min(stop, frames_of(model.spec, samples.count)),
            out=out,
            out_frames=stop,
            flags=flags + 4,
            stream=self.stream,
        )
        return out + before

    def layer_outputs(self) -> list[NDArray[np.float32]]:
        """Its outputs on the host."""
        outputs = []
        for layer in self.layers:
            raw = np.empty(layer.layout.bytes, np.uint8)
            self.download(raw, layer.address)
            outputs.append(layer.layout.to_float32(raw))
        return outputs

    def close(self) -> None:
        """Free its memory, once its work is done."""
        for memory in self._memory:
            memory.close(self.stream)


@contextmanager
def open_run(
    model: Model,
    pool: SlotPool,
    samples: Samples | DeviceSamples,
    pieces: Sequence[Piece],
    flags: int,
) -> Iterator[Run]:
    """A run over pieces that follow one another, queued.

    Args:
        samples: whose log-mel the pieces are of.
        flags: address of the flags of layer outputs, and after them of samples.
    """
    key = RunKey(len(pieces), pieces[0].frames)
    what = f"a run of {key.segments} inputs of {key.frames} frames"

    def bind(slot: Slot) -> None:
        layout = MemoryLayout()
        sizes = slot.context.prepare(key.segments, key.frames, slot.stream)
        offsets = [layout.add(size) for size in sizes]
        pool.resize(slot, layout.size, 0, what)
        base = slot.device.address if slot.device is not None else 0
        slot.context.attach([base + offset for offset in offsets])

    with pool.lease(key, bind) as slot:
        run = Run(model, pool, slot.stream, what)
        try:
            log_mel = run.network_input(samples, pieces[0].start, pieces[-1].stop, flags)
            valid = 0
            if model.spec.masked:  # a run of one clip has no shorter ones
                valid = run.upload(np.full(key.segments, key.frames, np.int32))
            run.layers = slot.context.enqueue(log_mel, slot.stream, valid)
            yield run
        finally:
            run.close()
