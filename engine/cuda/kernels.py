"""The native kernels on device addresses, with the sizes of one artifact filled in."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ...errors import BackendError
from ...frontend.tables import frontend_tables
from ...spec import Head, Spec
from ..network_input import LOG_MEL, NetworkInput
from ..runner import SampleType
from .cuda_network import ITEM_SIZES, LayerTensor
from .driver import Stream


@dataclass(frozen=True)
class Ranges:
    """Addresses of the int64 arrays that say which frames of which segments count.

    Args:
        offsets: [B + 1], clip b has the segments offsets[b] to offsets[b + 1].
        begins: [S].
        counts: [S].
    """

    offsets: int
    begins: int
    counts: int


@dataclass(frozen=True)
class State:
    """Addresses of a ``FusionState`` of one clip, and of its flags."""

    sum: int
    compensation: int
    max: int
    count: int
    flags: int


@dataclass(frozen=True)
class FrameFeatures:
    """Where frame features [D, total] go: an address, and that of the int64 offset to begin at."""

    address: int
    total: int
    offset: int


class Kernels:
    """The kernels for the frontend and the layers of a spec.

    Args:
        spec: the artifact's.
        network_input: what the network takes.

    Raises:
        ArtifactError: the input is not one of this frontend.
        BackendError: the native module has no CUDA kernels, or none for this frontend.

    Attributes:
        frame_bytes: of one frame of the network's input.
    """

    def __init__(self, spec: Spec, network_input: NetworkInput = LOG_MEL) -> None:
        self.require()
        frontend = spec.frontend
        affine = network_input.values(frontend.n_mels)
        self.frame_bytes = frontend.n_mels * ITEM_SIZES[network_input.dtype]
        try:
            self._frontend = frontend_tables(frontend, affine=affine, dtype=network_input.dtype)
        except ValueError as error:
            raise BackendError(f"the {frontend.preset} frontend has no kernel: {error}") from error
        self._n_mels, self._pools = frontend.n_mels, [layer.time_pool for layer in spec.layers]

    def require(self) -> None:
        """Raise ``BackendError`` where the native module has no CUDA kernels."""
        if not _core.cuda_enabled:
            raise BackendError(
                "fusion_engine was built without CUDA kernels. Install it again where nvcc is, "
                "with FUSION_ENGINE_CUDA=ON, or ask for device='cpu'."
            )

    @property
    def tables(self) -> NDArray[np.uint8]:
        """What ``log_mel`` reads from device memory."""
        tables: NDArray[np.uint8] = np.frombuffer(self._frontend.data, np.uint8)
        return tables

    def log_mel(
        self,
        *,
        tables: int,
        samples: int,
        dtype: SampleType,
        clips: int,
        stride: int,
        lengths: int,
        frames: int,
        least: int = 0,
        out: int,
        out_frames: int,
        flags: int,
        stream: Stream,
    ) -> None:
        """Queue the network's input [B, out_frames, M] of samples [B, stride].

        Args:
            tables: where ``tables`` are on the device.
            dtype: of the samples, ``float32`` or ``int16``.
            lengths: int64 [B], samples of each clip.
            frames: of every clip; the rows after them become padding.
            least: 0; else each clip has as many as its samples give, from so many to ``frames``.
            flags: uint32 [B], bit 0 is set when a sample is not finite.
        """
        _core.log_mel_cuda(
            self._frontend,
            tables=tables,
            samples=samples,
            dtype=dtype,
            clips=clips,
            stride=stride,
            lengths=lengths,
            frames=frames,
            least=least,
            out=out,
            out_frames=out_frames,
            flags=flags,
            stream=stream.handle,
        )

    def fuse(
        self,
        layers: Sequence[LayerTensor],
        *,
        clips: int,
        ranges: Ranges | None,
        head: Head,
        embedding: int,
        flags: int,
        stream: Stream,
    ) -> None:
        """Queue embeddings [B, D] of whole clips.

        Args:
            ranges: ``None``: segment b is clip b, and all of its frames count.
        """
        where = ranges or Ranges(0, 0, 0)
        _core.fuse_cuda(
            self._layers(layers),
            clips=clips,
            embedding=embedding,
            flags=flags,
            offsets=where.offsets,
            begins=where.begins,
            counts=where.counts,
            head=head,
            stream=stream.handle,
        )

    def accumulate(
        self,
        layers: Sequence[LayerTensor],
        *,
        ranges: Ranges,
        state: State,
        frames: FrameFeatures | None,
        stream: Stream,
    ) -> None:
        """Queue the addition of one clip's next frames to its state."""
        where = frames or FrameFeatures(0, 0, 0)
        _core.accumulate_cuda(
            self._layers(layers),
            clips=1,
            sum=state.sum,
            compensation=state.compensation,
            max=state.max,
            count=state.count,
            flags=state.flags,
            offsets=ranges.offsets,
            begins=ranges.begins,
            counts=ranges.counts,
            frames=where.address,
            frames_total=where.total,
            frame_offsets=where.offset,
            stream=stream.handle,
        )

    def finalize(
        self, *, dim: int, state: State, head: Head, embedding: int, stream: Stream
    ) -> None:
        """Queue the embedding [D] of one clip's state."""
        _core.finalize_cuda(
            clips=1,
            dim=dim,
            sum=state.sum,
            compensation=state.compensation,
            max=state.max,
            count=state.count,
            embedding=embedding,
            head=head,
            stream=stream.handle,
        )

    def steps(self, layers: Sequence[LayerTensor]) -> int:
        """T_o, the frame features that all of these layer outputs hold."""
        return min(
            (
                layer.layout.shape[2] // pool
                for layer, pool in zip(layers, self._pools, strict=True)
                if len(layer.layout.shape) == 4
            ),
            default=1,
        )

    def _layers(self, layers: Sequence[LayerTensor]) -> list[_core.DeviceLayer]:
        return [
            _core.DeviceLayer(
                layer.address,
                dtype=layer.layout.dtype,
                shape=layer.layout.shape,
                strides=layer.layout.strides,
                time_pool=pool,
            )
            for layer, pool in zip(layers, self._pools, strict=True)
        ]
