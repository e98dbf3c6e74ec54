"""Everyday clips: one run for a batch of clips that are cut alike, from its second time on as one
CUDA graph: samples in, log-mel, network, layer fusion, embeddings out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...audio.arrays import INT16_SCALE
from ...spec import Head
from ..cut import Cut, Piece
from ..runner import Flags, Samples
from .kernels import Ranges, SampleType
from .model import Model
from .slots import MemoryLayout, Slot, SlotPool


@dataclass(frozen=True)
class BatchKey:
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
    return BatchKey(clips, frames, len(cut.pieces), first.frames, dtype, head, resident)


def sample_type(clips: Sequence[Samples]) -> SampleType:
    """int16 crosses the bus as it is, where all clips have it."""
    return "int16" if all(samples.dtype == np.int16 for samples in clips) else "float32"


class BatchProgram:
    """A batch in a slot: addresses, and views of the page-locked memory.

    Device memory holds, in this order: the input (lengths [B] int64 and samples [B, stride]), the
    output (embeddings [B, D] float32, flags [2, B] uint32: of layer outputs and of samples), the
    index arrays, log-mel, and what the network asks for. The host's has the first three.
    """

    def __init__(self, slot: Slot, pool: SlotPool, model: Model, key: BatchKey) -> None:
        self._slot, self._model, self._key = slot, model, key
        self._sample_bytes = np.dtype(key.dtype).itemsize
        front, dim, clips = model.spec.frontend, model.spec.embedding_dim, key.clips
        # As many samples as give no further frame, in whole 16 bytes.
        most = key.resident or front.samples(key.frames) + front.hop_length - 1
        self.stride = -(-most // 8) * 8
        total = clips * key.segments
        layout = MemoryLayout()
        self._lengths = layout.add(8 * clips)
        self._samples = layout.add(self._sample_bytes * clips * self.stride)
        self._input_bytes = layout.size
        self._embedding = layout.add(4 * clips * dim)
        self._flags = layout.add(8 * clips)
        self._output_bytes = layout.size - self._embedding
        self._offsets = layout.add(8 * (clips + 1))
        self._begins, self._counts = layout.add(8 * total), layout.add(8 * total)
        self._index_bytes = layout.size - self._offsets
        on_host = layout.size
        self._log_mel = layout.add(4 * total * key.length * front.n_mels)
        with_context = [
            layout.add(size) for size in slot.context.prepare(total, key.length, slot.stream)
        ]
        what = f"a batch of {clips} clips of {key.frames} frames"
        pool.resize(slot, layout.size, on_host, what)
        assert slot.device is not None
        assert slot.pinned is not None
        self._device, self._host = slot.device.address, slot.pinned
        self._host_lengths = self._view(self._lengths, np.int64, clips)
        self._host_samples = self._view(self._samples, key.dtype, clips, self.stride)
        self._host_embedding = self._view(self._embedding, np.float32, clips, dim)
        self._host_flags = self._view(self._flags, np.uint32, clips)
        slot.context.attach([self._device + offset for offset in with_context])

    def bind(self, pieces: Sequence[Piece]) -> None:
        """Upload what is the same in every run of the key."""
        clips = self._key.clips
        self._view(self._offsets, np.int64, clips + 1)[:] = np.arange(clips + 1) * len(pieces)
        for offset, values in (
            (self._begins, [piece.begin for piece in pieces]),
            (self._counts, [piece.count for piece in pieces]),
        ):
            self._view(offset, np.int64, clips * len(pieces))[:] = values * clips
        self._host_lengths[:] = self._key.resident or 0
        self._upload(self._offsets, self._index_bytes)
        if self._key.resident is not None:
            self._upload(self._lengths, 8 * clips)
        self._slot.stream.synchronize()

    def run(self, clips: Sequence[Samples]) -> tuple[NDArray[np.float32], Flags, bool]:
        """Embeddings [B, D] and flags of clips on the host, and whether it was one graph."""
        for row, clip in enumerate(clips):
            length = min(len(clip), self.stride)
            self._host_lengths[row] = length
            target = self._host_samples[row, :length]
            if clip.dtype == np.int16 and self._key.dtype == "float32":
                np.multiply(clip[:length], INT16_SCALE, out=target)
            else:
                target[:] = clip[:length]
        graph = self._slot.run(self._work)
        self._slot.stream.synchronize()
        return self._host_embedding.copy(), self._host_flags.copy(), graph

    def run_resident(self, rows: Sequence[int], embedding: int, flags: int, total: int) -> bool:
        """Embed rows in device memory, at these addresses, after this point of the stream.

        Args:
            rows: the address of each clip's samples.
            embedding: receives [B, D].
            flags: receives [B] of layer outputs, and ``total`` words after it [B] of samples.
            total: clips of the whole call.

        Returns:
            Whether it was one graph.
        """
        cuda, stream = self._model.cuda, self._slot.stream
        assert self._key.resident is not None
        size = self._key.resident * self._sample_bytes
        step = self.stride * self._sample_bytes
        target = self._device + self._samples
        for row, source in enumerate(rows):
            cuda.copy(target + row * step, source, size, stream)
        graph = self._slot.run(self._work)
        clips, dim = len(rows), self._model.spec.embedding_dim
        cuda.copy(embedding, self._device + self._embedding, 4 * clips * dim, stream)
        for half in range(2):
            source = self._device + self._flags + 4 * clips * half
            cuda.copy(flags + 4 * total * half, source, 4 * clips, stream)
        return graph

    def _work(self) -> None:
        key, model, stream, device = self._key, self._model, self._slot.stream, self._device
        if key.resident is None:
            self._upload(self._lengths, self._input_bytes)
        model.cuda.fill(device + self._flags, 0, 2 * key.clips, stream)
        model.kernels.log_mel(
            tables=model.tables.address,
            samples=device + self._samples,
            dtype=key.dtype,
            clips=key.clips,
            stride=self.stride,
            lengths=device + self._lengths,
            frames=key.frames,
            out=device + self._log_mel,
            out_frames=key.segments * key.length,
            flags=device + self._flags + 4 * key.clips,
            stream=stream,
        )
        layers = self._slot.context.enqueue(device + self._log_mel, stream)
        model.kernels.fuse(
            layers,
            clips=key.clips,
            ranges=Ranges(device + self._offsets, device + self._begins, device + self._counts),
            head=key.head,
            embedding=device + self._embedding,
            flags=device + self._flags,
            stream=stream,
        )
        if key.resident is None:
            source = device + self._embedding
            address = self._host.address + self._embedding
            model.cuda.copy(address, source, self._output_bytes, stream)

    def _upload(self, offset: int, size: int) -> None:
        self._model.cuda.copy(
            self._device + offset, self._host.address + offset, size, self._slot.stream
        )

    def _view(self, offset: int, dtype: type | str, *shape: int) -> NDArray[Any]:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return self._host.bytes[offset : offset + size].view(dtype).reshape(shape)
