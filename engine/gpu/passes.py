"""One clip of any length, run by run: long clips, frame features, and layer outputs.

Its log-mel is computed in one launch and stays on the device; every piece is a view of it. Device
memory is that of the samples, the log-mel and one run. Never captured.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...spec import Head
from ..pieces import Piece, runs_of
from ..runner import Flags, Run, Samples
from .backbone import LayerTensor
from .batch import sample_type
from .cuda import Memory, Stream
from .kernels import Frames, Ranges, SampleType, State
from .model import Model
from .slots import Layout, Slot, SlotPool

NEGATIVE_INFINITY = 0xFF800000  # the bits of a float32


@dataclass(frozen=True)
class RunKey:
    """What a slot for one run of a pass depends on: S inputs of ``frames`` frames."""

    segments: int
    frames: int


@dataclass(frozen=True)
class DeviceSamples:
    """A clip's samples in device memory."""

    address: int
    count: int
    dtype: SampleType


class Pass:
    """The pieces of one clip; to be used inside ``open_pass``."""

    def __init__(
        self, model: Model, pool: SlotPool, frames: int, pieces: Sequence[Piece], stream: Stream
    ) -> None:
        self._model, self._pool, self._stream = model, pool, stream
        self._rows = pieces[-1].stop
        self._frames = min(frames, self._rows)
        self._row_bytes = 4 * model.frontend.n_mels
        self._dim = model.spec.embedding_dim
        if model.spec.segment is None:
            self._runs: list[Sequence[Piece]] = [[piece] for piece in pieces]
        else:  # neighbours, and their log-mel too
            most = model.backbone.segments_per_run(pieces[0].frames)
            self._runs = list(runs_of(pieces, most * pieces[0].frames))
        self._memory: list[Memory] = []
        self._log_mel = self.flags = 0

    @property
    def runs(self) -> int:
        """Runs of the backbone."""
        return len(self._runs)

    def start(self, clip: Samples | DeviceSamples) -> None:
        """Compute the log-mel."""
        if isinstance(clip, DeviceSamples):
            samples, count, dtype = clip.address, clip.count, clip.dtype
        else:
            dtype = sample_type([clip])
            host = np.ascontiguousarray(clip, dtype)
            samples, count = self.upload(host), len(host)
        lengths = self.upload(np.array([count], np.int64))
        self._log_mel = self.allocate(self._rows * self._row_bytes)
        self.flags = self.allocate(8)
        self._model.cuda.fill(self.flags, 0, 2, self._stream)
        self._model.kernels.log_mel(
            tables=self._model.tables.address,
            samples=samples,
            dtype=dtype,
            clips=1,
            stride=count,
            lengths=lengths,
            frames=self._frames,
            out=self._log_mel,
            out_frames=self._rows,
            flags=self.flags + 4,
            stream=self._stream,
        )
        self._stream.synchronize()

    def fuse(self, head: Head, embedding: int) -> None:
        """The embedding [D] at an address, and the flags of layer outputs and samples."""
        state = self._accumulate(None)
        kernels = self._model.kernels
        kernels.finalize(
            dim=self._dim, state=state, head=head, embedding=embedding, stream=self._stream
        )

    def fuse_frames(self, out: NDArray[np.float32]) -> None:
        """Frame features into ``out`` [D, T_o]."""
        frames = self.allocate(out.nbytes)
        self._accumulate(frames, out.shape[1])
        self.download(out, frames)

    def layer_outputs(self) -> Iterator[Run]:
        """Layer outputs of each run on the host."""
        for run in self._runs:
            outputs: list[NDArray[np.float32]] = []

            def fetch(
                layers: Sequence[LayerTensor],
                stream: Stream,
                outputs: list[NDArray[np.float32]] = outputs,
            ) -> None:
                for layer in layers:
                    raw = np.empty(layer.layout.bytes, np.uint8)
                    self._model.cuda.copy(raw.ctypes.data, layer.address, raw.nbytes, stream)
                    stream.synchronize()
                    outputs.append(layer.layout.to_float32(raw))

            self._run(run, fetch)
            yield run, outputs

    def download_flags(self) -> tuple[Flags, Flags]:
        """Flags [1] of layer outputs, and of samples."""
        both = np.empty(2, np.uint32)
        self.download(both, self.flags)
        return both[:1], both[1:]

    def copy_flags(self, layers: int, samples: int) -> None:
        """Copy the two flags to addresses on the device."""
        for target, source in ((layers, self.flags), (samples, self.flags + 4)):
            self._model.cuda.copy(target, source, 4, self._stream)
        self._stream.synchronize()

    def allocate(self, size: int) -> int:
        """Address of memory that lives as long as the pass."""
        memory = self._pool.transient(size, self._stream, f"a clip of {self._frames} frames")
        self._memory.append(memory)
        return memory.address

    def upload(self, values: NDArray[np.generic]) -> int:
        """Address of a copy of ``values``."""
        address = self.allocate(max(values.nbytes, 1))
        self._model.cuda.copy(address, values.ctypes.data, values.nbytes, self._stream)
        self._stream.synchronize()  # before the caller's array goes
        return address

    def download(self, target: NDArray[np.generic], source: int) -> None:
        """Fill a contiguous array."""
        self._model.cuda.copy(target.ctypes.data, source, target.nbytes, self._stream)
        self._stream.synchronize()

    def close(self) -> None:
        """Free its memory."""
        for memory in self._memory:
            memory.close(self._stream)

    def _accumulate(self, frames: int | None, total: int = 0) -> State:
        state = self._empty_state()
        pieces = [piece for run in self._runs for piece in run]
        begins = self.upload(np.array([piece.begin for piece in pieces], np.int64))
        counts = self.upload(np.array([piece.count for piece in pieces], np.int64))
        offsets = self.upload(np.array([[0, len(run)] for run in self._runs], np.int64))
        per_run = [sum(piece.count for piece in run) for run in self._runs]
        starts = self.upload(np.cumsum([0, *per_run], dtype=np.int64))
        first = 0
        for index, run in enumerate(self._runs):
            ranges = Ranges(offsets + 16 * index, begins + 8 * first, counts + 8 * first)
            where = None if frames is None else Frames(frames, total, starts + 8 * index)

            def add(
                layers: Sequence[LayerTensor],
                stream: Stream,
                ranges: Ranges = ranges,
                where: Frames | None = where,
            ) -> None:
                self._model.kernels.accumulate(
                    layers, ranges=ranges, state=state, frames=where, stream=stream
                )

            self._run(run, add)
            first += len(run)
        return state

    def _empty_state(self) -> State:
        """Zeros, and minus infinity for the maximum."""
        size = 4 * self._dim
        both, peak, count = self.allocate(2 * size), self.allocate(size), self.allocate(4)
        cuda = self._model.cuda
        cuda.fill(both, 0, 2 * self._dim, self._stream)
        cuda.fill(peak, NEGATIVE_INFINITY, self._dim, self._stream)
        cuda.fill(count, 0, 1, self._stream)
        self._stream.synchronize()
        return State(both, both + size, peak, count, self.flags)

    def _run(
        self, run: Sequence[Piece], use: Callable[[Sequence[LayerTensor], Stream], None]
    ) -> None:
        """The backbone on one run, and ``use`` of its outputs, finished when this returns."""
        key = RunKey(len(run), run[0].frames)

        def bind(slot: Slot) -> None:
            layout = Layout()
            sizes = slot.context.prepare(key.segments, key.frames, slot.stream)
            offsets = [layout.add(size) for size in sizes]
            what = f"a run of {key.segments} inputs of {key.frames} frames"
            self._pool.resize(slot, layout.size, 0, what)
            base = slot.device.address if slot.device is not None else 0
            slot.context.attach([base + offset for offset in offsets])

        with self._pool.lease(key, bind) as slot:
            start = self._log_mel + run[0].start * self._row_bytes
            use(slot.context.enqueue(start, slot.stream), slot.stream)
            slot.stream.synchronize()


@contextmanager
def open_pass(
    model: Model,
    pool: SlotPool,
    clip: Samples | DeviceSamples,
    frames: int,
    pieces: Sequence[Piece],
    *,
    after: Callable[[Stream], None] | None = None,
) -> Iterator[Pass]:
    """A pass over one clip of ``frames`` frames of log-mel, which is computed.

    ``after`` may let the pass's stream wait for another one.
    """
    stream = model.cuda.stream()
    this = Pass(model, pool, frames, pieces, stream)
    try:
        if after is not None:
            after(stream)
        this.start(clip)
        yield this
    finally:
        stream.synchronize()
        this.close()
        stream.close()
