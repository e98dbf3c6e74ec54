"""Everyday clips: one run for a batch of clips that are cut alike, from its second time on as one
CUDA graph: log-mel, network, layer fusion, embeddings out. Samples are sent before it."""

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ...audio.arrays import MAX_SAMPLE
from ...spec import Head
from ..cut import Cut, Piece, frames_of, least_frames
from ..runner import RunResult, Samples, SampleType
from .kernels import Ranges
from .model import Model
from .slots import MemoryLayout, Slot, SlotPool

_dtype_of = attrgetter("dtype")
_INT16 = {np.dtype(np.int16)}


class BatchKey(NamedTuple):
    """What a slot for a batch depends on.

    Args:
        clips: B.
        frames: frames of log-mel of each clip.
        segments: P, pieces of each clip, of ``length`` frames.
        length: see ``segments``.
        dtype: of the samples on the device.
        head: pooling over time.
        resident: samples of each clip of a batch that is in device memory, and whose results stay
            there; ``None``: samples come from the host, and results go there.
    """

    clips: int
    frames: int
    segments: int
    length: int
    dtype: SampleType
    head: Head
    resident: int | None = None


def batch_key(
    clips: int, cut: Cut, *, dtype: SampleType, head: Head, resident: int | None = None
) -> BatchKey:
    """The key of a batch of clips that are cut alike."""
    # What comes after the last piece is dropped, and what is missing in it is padding.
    first, last = cut.pieces[0], cut.pieces[-1]
    frames = min(cut.frames, last.stop)
    length = first.stop - first.start
    return BatchKey(clips, frames, len(cut.pieces), length, dtype, head, resident)


def sample_type(clips: Sequence[Samples]) -> SampleType:
    """int16 crosses the bus as it is, where all clips have it."""
    return "int16" if set(map(_dtype_of, clips)) == _INT16 else "float32"


class _Program:
    """A batch in a slot: its device memory, and what is queued there for every run.

    Device memory holds index arrays, embeddings [B, D] float32, flags [2, B] uint32 of layer
    outputs and of samples, lengths [B] int64, for a masked network frames [B] int32 and steps [B]
    int64 of each clip, ``sample_bytes`` of samples, log-mel, and what the network asks for; the
    host's page-locked memory has all but the last two. From the flags on it is input, which clears
    them; embeddings and flags are output.
    """

    def __init__(
        self,
        pool: SlotPool,
        model: Model,
        key: BatchKey,
        pieces: Sequence[Piece],
        slot: Slot,
        *,
        sample_bytes: int,
    ) -> None:
        self._slot, self._model, self._key = slot, model, key
        dim, clips = model.spec.embedding_dim, key.clips
        total = clips * key.segments
        layout = MemoryLayout()
        offsets, begins, counts = (layout.add(8 * n) for n in (clips + 1, total, total))
        indices = layout.size
        self._embedding, self._flags = layout.add(4 * clips * dim), layout.add(8 * clips)
        self._output_bytes = layout.size - self._embedding
        self._lengths = layout.add(8 * clips)
        self._masked = model.spec.masked
        if self._masked:
            self._valid, self._counts = layout.add(4 * clips), layout.add(8 * clips)
        self._length_bytes = layout.size - self._lengths
        self._samples = layout.add(sample_bytes)
        on_host = layout.size
        self._log_mel = layout.add(total * key.length * model.kernels.frame_bytes)
        with_context = [
            layout.add(size) for size in slot.context.prepare(total, key.length, slot.stream)
        ]
        what = f"a batch of {clips} clips of {key.frames} frames"
        pool.resize(slot, layout.size, on_host, what)
        assert slot.device is not None
        assert slot.pinned is not None
        self._device, self._host = slot.device.address, slot.pinned
        slot.context.attach([self._device + offset for offset in with_context])
        self._view(offsets, np.int64, clips + 1)[:] = np.arange(clips + 1) * len(pieces)
        self._view(begins, np.int64, total)[:] = [piece.begin for piece in pieces] * clips
        self._view(counts, np.int64, total)[:] = [piece.count for piece in pieces] * clips
        self._upload(0, indices)
        if self._masked:
            counts = self._counts
        self._ranges = Ranges(*(self._device + offset for offset in (offsets, begins, counts)))
        # The steps of a clip that is one piece from its first step on.
        whole = len(pieces) == 1 and pieces[0].begin == 0 and not self._masked
        self._whole = pieces[0].count if whole else None

    def _set_lengths(self, samples: int) -> None:
        """Say once for all runs that each clip has so many samples."""
        clips, spec = self._key.clips, self._model.spec
        self._view(self._lengths, np.int64, clips)[:] = samples
        if self._masked:
            frames = frames_of(spec, samples)
            self._view(self._valid, np.int32, clips)[:] = frames
            self._view(self._counts, np.int64, clips)[:] = spec.steps(frames)
        self._upload(self._lengths, self._length_bytes)

    def _queue_log_mel(self, samples: int, stride: int, flags: int) -> None:
        key, model, device = self._key, self._model, self._device
        model.kernels.log_mel(
            tables=model.tables.address,
            samples=samples,
            dtype=key.dtype,
            clips=key.clips,
            stride=stride,
            lengths=device + self._lengths,
            frames=key.frames,
            least=least_frames(model.spec) if self._masked else 0,
            out=device + self._log_mel,
            out_frames=key.segments * key.length,
            flags=flags,
            stream=self._slot.stream,
        )

    def _queue_network(self) -> None:
        """The network and layer fusion."""
        key, kernels, device, stream = (
            self._key,
            self._model.kernels,
            self._device,
            self._slot.stream,
        )
        valid = device + self._valid if self._masked else 0
        layers = self._slot.context.enqueue(device + self._log_mel, stream, valid)
        kernels.fuse(
            layers,
            clips=key.clips,
            ranges=None if self._whole == kernels.steps(layers) else self._ranges,
            head=key.head,
            embedding=device + self._embedding,
            flags=device + self._flags,
            stream=stream,
        )

    def _upload(self, offset: int, size: int) -> None:
        self._model.cuda.copy(
            self._device + offset, self._host.address + offset, size, self._slot.stream
        )

    def _view(self, offset: int, dtype: type | str, *shape: int) -> NDArray[Any]:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return self._host.bytes[offset : offset + size].view(dtype).reshape(shape)


class BatchProgram(_Program):
    """A batch of clips that come from the host, with results that go there."""

    def __init__(
        self, pool: SlotPool, model: Model, key: BatchKey, pieces: Sequence[Piece], slot: Slot
    ) -> None:
        front = model.spec.frontend
        # As many samples as give no further frame, in whole 16 bytes.
        most = front.samples(key.frames) + front.hop_length - 1
        self.stride = -(-most // 8) * 8
        size = np.dtype(key.dtype).itemsize * key.clips * self.stride
        super().__init__(pool, model, key, pieces, slot, sample_bytes=size)
        self._native = self.native(model.cuda.native(slot.stream))
        self._graph = False  # whether what was started is one
        slot.stream.synchronize()

    def native(self, stream: _core.Stream) -> _core.Program:
        """What brings samples to the device and results back, on a stream."""
        host, key = self._host.address, self._key
        return _core.Program(
            stream,
            device=self._device + self._flags,
            samples=host + self._samples,
            dtype=key.dtype,
            clips=key.clips,
            stride=self.stride,
            lengths=host + self._lengths,
            flags=host + self._flags,
            embedding=host + self._embedding,
            dim=self._model.spec.embedding_dim,
            largest=MAX_SAMPLE,
            **self._ragged(),
        )

    def _ragged(self) -> dict[str, int]:
        """What native code needs to say of each clip how long it is."""
        spec, host = self._model.spec, self._host.address
        if not self._masked:
            return {}
        assert spec.frames_per_step is not None
        return {
            "valid": host + self._valid,
            "counts": host + self._counts,
            "hop_length": spec.frontend.hop_length,
            "first": spec.frontend.samples(1),
            "least": least_frames(spec),
            "frames_per_step": spec.frames_per_step,
            "step_offset": spec.step_offset,
        }

    def run(self, clips: Sequence[Samples], in_place: bool) -> tuple[RunResult, bool]:
        """The result for clips on the host, and whether it was one graph.

        Args:
            clips: of what the key says.
            in_place: they are in page-locked memory, with the key's dtype.
        """
        graph = self._slot.graph
        if graph is not None:
            return self._native.run(clips, graph.handle, in_place=in_place), True
        self.start(clips, in_place)
        return self.finish()

    def start(self, clips: Sequence[Samples], in_place: bool) -> None:
        """Queue a run for clips on the host; ``finish`` follows."""
        graph = self._slot.graph
        if graph is None:
            with self._model.cuda.current():
                graph = self._slot.recorded(self._work)
                if graph is None:
                    self._native.load(clips, in_place=in_place)
                    self._work()
        if graph is not None:
            self._native.start(clips, graph.handle, in_place=in_place)
        self._graph = graph is not None

    def finish(self) -> tuple[RunResult, bool]:
        """Wait for what ``start`` queued; see ``run``."""
        return self._native.finish(), self._graph

    def _work(self) -> None:
        device, stream = self._device, self._slot.stream
        flags = device + self._flags + 4 * self._key.clips
        self._queue_log_mel(device + self._samples, self.stride, flags)
        self._queue_network()
        output = self._embedding
        self._model.cuda.copy(
            self._host.address + output, device + output, self._output_bytes, stream
        )


class ResidentProgram(_Program):
    """A batch of clips that are in device memory, with results that stay there."""

    def __init__(
        self, pool: SlotPool, model: Model, key: BatchKey, pieces: Sequence[Piece], slot: Slot
    ) -> None:
        super().__init__(pool, model, key, pieces, slot, sample_bytes=0)
        assert key.resident is not None
        self._set_lengths(key.resident)
        slot.stream.synchronize()

    def run(self, samples: int, stride: int, embedding: int, flags: int, sample_flags: int) -> bool:
        """Embed clips in device memory, at these addresses, after this point of the stream.

        Args:
            samples: of the first clip, read where they are.
            stride: samples from one clip to the next.
            embedding: receives [B, D].
            flags: receives [B] of layer outputs.
            sample_flags: [B] of samples, cleared.

        Returns:
            Whether it was one graph.
        """
        cuda, stream, clips = self._model.cuda, self._slot.stream, self._key.clips
        # The array is another one in every call: this launch cannot be part of the graph.
        self._queue_log_mel(samples, stride, sample_flags)
        graph = self._slot.recorded(self._work)
        if graph is None:
            self._work()
        else:
            graph.launch(stream)
        size = 4 * clips * self._model.spec.embedding_dim
        cuda.copy(embedding, self._device + self._embedding, size, stream)
        cuda.copy(flags, self._device + self._flags, 4 * clips, stream)
        return graph is not None

    def _work(self) -> None:
        self._model.cuda.fill(self._device + self._flags, 0, self._key.clips, self._slot.stream)
        self._queue_network()
