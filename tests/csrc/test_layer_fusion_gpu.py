"""Layer fusion on a GPU: against PyTorch in FP64, and against PyTorch in the same precision."""

from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_engine import _core
from fusion_engine.engine.fusion import FusionState

from .cases import HEADS, TOLERANCE, Case, assert_embeds, cases, frame_features

pytestmark = pytest.mark.gpu

few = settings(deadline=None, max_examples=100)


def _to_device(x: np.ndarray) -> torch.Tensor:
    """The same values with the same strides (torch has no negative ones: those become copies)."""
    dtype = torch.bfloat16 if x.dtype == ml_dtypes.bfloat16 else None
    values = x.astype(np.float32) if dtype else np.ascontiguousarray(x)
    tensor = torch.from_numpy(values).to("cuda", dtype)
    if min(x.strides) < 0:
        return tensor
    strides = [s // x.itemsize for s in x.strides]
    size = 1 + sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True))
    base = torch.zeros(size, dtype=tensor.dtype, device="cuda")
    return base.as_strided(x.shape, strides).copy_(tensor)


def _layer(x: torch.Tensor, time_pool: int) -> _core.DeviceLayer:
    return _core.DeviceLayer(
        x.data_ptr(),
        dtype=str(x.dtype).removeprefix("torch."),
        shape=x.shape,
        strides=x.stride(),
        time_pool=time_pool,
    )


class _Call:
    """A case on the device: descriptors, and the arrays that they point to."""

    def __init__(self, case: Case) -> None:
        self.tensors = [_to_device(x) for x in case.outputs]
        self.layers = [_layer(x, k) for x, k in zip(self.tensors, case.time_pools, strict=True)]
        self.clips = case.clips
        self.arrays = {
            name: torch.from_numpy(a).cuda() for name, a in case.ranges.items() if a is not None
        }

    @property
    def arguments(self) -> dict[str, Any]:
        pointers = {name: a.data_ptr() for name, a in self.arrays.items()}
        return {"clips": self.clips, "stream": torch.cuda.current_stream().cuda_stream, **pointers}

    def fuse(self, dim: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        embedding = torch.full((self.clips, dim), 7.0, device="cuda")
        flags = torch.zeros(self.clips, dtype=torch.int32, device="cuda")
        _core.fuse_cuda(
            self.layers,
            embedding=embedding.data_ptr(),
            flags=flags.data_ptr(),
            **self.arguments,
            **options,
        )
        return embedding.cpu().numpy(), flags.cpu().numpy().view(np.uint32)


@few
@given(case=cases(), head=st.sampled_from(HEADS))
def test_embedding_and_frame_features(case: Case, head: str) -> None:
    features = frame_features(case)
    total = max(z.shape[1] for z in features) + 1
    frames = torch.full((case.clips, case.dim, total), 7.0, device="cuda")
    embedding, flags = _Call(case).fuse(
        case.dim, head=head, frames=frames.data_ptr(), frames_total=total
    )
    assert_embeds(embedding, features, head)
    assert not flags.any()
    for got, z in zip(frames.cpu().numpy(), features, strict=True):
        np.testing.assert_array_equal(got[:, : z.shape[1]], z.astype(np.float32))
        assert (got[:, z.shape[1] :] == 7.0).all()


@few
@given(case=cases(), head=st.sampled_from(HEADS), parts=st.integers(1, 3))
def test_accumulate_and_finalize(case: Case, head: str, parts: int) -> None:
    state = FusionState.empty(case.clips, case.dim)
    buffers = {
        name: torch.from_numpy(a.view(np.int32) if name == "flags" else a).cuda()
        for name, a in vars(state).items()
    }
    pointers = {name: buffer.data_ptr() for name, buffer in buffers.items()}
    begins = np.array([case.counted(s).start for s in range(case.segments)])
    ends = np.array([case.counted(s).stop for s in range(case.segments)])
    cuts = [begins + (ends - begins) * i // parts for i in range(parts + 1)]
    for begin, end in pairwise(cuts):
        part = Case(case.outputs, case.time_pools, case.offsets, begin, end - begin)
        call = _Call(part)
        _core.accumulate_cuda(call.layers, **call.arguments, **pointers)
        torch.cuda.synchronize()
    embedding = torch.empty((case.clips, case.dim), device="cuda")
    del pointers["flags"]
    _core.finalize_cuda(
        clips=case.clips, dim=case.dim, head=head, embedding=embedding.data_ptr(), **pointers
    )
    assert_embeds(embedding.cpu().numpy(), frame_features(case), head)
    assert not buffers["flags"].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_cnn14_errs_at_most_twice_as_much_as_torch(dtype, channels_last: bool, batch: int) -> None:
    """Blocks 3 and 6 of 10 s clips, the textbook operations of torch in the same precision."""
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.rand(batch, 256, 125, 8, device="cuda").to(dtype, memory_format=layout)
    y = torch.rand(batch, 2048, 31, 2, device="cuda").to(dtype, memory_format=layout)

    def textbook(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        pooled = [F.max_pool2d(x, (4, 1)), y]
        flat = [z.permute(0, 1, 3, 2).flatten(1, 2) for z in pooled]
        z = torch.cat(flat, dim=1)
        return z.mean(-1) + z.amax(-1)

    exact = textbook(x.double(), y.double())
    embedding = torch.empty(batch, 6144, device="cuda")
    flags = torch.zeros(batch, dtype=torch.int32, device="cuda")
    _core.fuse_cuda(
        [_layer(x, 4), _layer(y, 1)],
        clips=batch,
        embedding=embedding.data_ptr(),
        flags=flags.data_ptr(),
        stream=torch.cuda.current_stream().cuda_stream,
    )
    floor = TOLERANCE * exact.abs().max().item()
    bound = 2 * (textbook(x, y).double() - exact).abs().max().item() + floor
    error = (embedding.double() - exact).abs().max().item()
    assert error <= bound, f"{error:.3g} > {bound:.3g}"
    assert not flags.any()


@few
@given(case=cases(max_layers=3), value=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_non_finite_value_is_flagged(case: Case, value: float) -> None:
    first = next(s for s in case.clip_segments(0) if case.counted(s))
    x, k = case.outputs[-1], case.time_pools[-1]
    x[(first, 0, case.counted(first).start * k, 0) if x.ndim == 4 else (first, 0)] = value
    _, flags = _Call(case).fuse(case.dim)
    expected = np.zeros(case.clips, np.uint32)
    expected[0] = 1 << (len(case.outputs) - 1)
    np.testing.assert_array_equal(flags, expected)
