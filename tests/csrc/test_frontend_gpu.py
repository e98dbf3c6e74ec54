"""The frontend kernel on a GPU: against FP64, and against its own algorithm built for the host."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusion_engine import _core
from fusion_engine.frontend import FRONTENDS, FrontendSpec, frontend_tables
from fusion_engine.frontend.frontend_spec import PANNS_16K

from .. import signals
from .log_mel import SIGNALS, assert_within_bounds, padding_value, reference, stacked

pytestmark = pytest.mark.gpu

by_preset = pytest.mark.parametrize("spec", FRONTENDS.values(), ids=FRONTENDS.keys())
few = settings(deadline=None, max_examples=60)


class _Call:
    """Arrays on the device, and the call that reads and writes them."""

    def __init__(
        self,
        spec: FrontendSpec,
        clips: list[Any],
        frames: int | None = None,
        rows: int = 0,
        **options: Any,
    ) -> None:
        samples, lengths = stacked(clips, room=3)
        self.frontend = frontend_tables(spec, **options)
        self.frames = spec.frames(len(clips[0])) if frames is None else frames
        self.tables = torch.frombuffer(bytearray(self.frontend.data), dtype=torch.uint8).cuda()
        self.samples = torch.from_numpy(samples).cuda()
        self.lengths = torch.from_numpy(lengths).cuda()
        shape = (len(clips) + 1, self.frames + rows, spec.n_mels)
        dtype = getattr(torch, options.get("dtype", "float32"))
        self.out = torch.full(shape, 7.0, dtype=dtype, device="cuda")
        self.flags = torch.zeros(len(clips), dtype=torch.int32, device="cuda")

    def queue(self) -> None:
        _core.log_mel_cuda(
            self.frontend,
            tables=self.tables.data_ptr(),
            samples=self.samples.data_ptr(),
            dtype="int16" if self.samples.dtype == torch.int16 else "float32",
            clips=len(self.samples),
            stride=self.samples.shape[1],
            lengths=self.lengths.data_ptr(),
            frames=self.frames,
            out=self.out.data_ptr(),
            out_frames=self.out.shape[1],
            flags=self.flags.data_ptr(),
            stream=torch.cuda.current_stream().cuda_stream,
        )

    def result(self) -> NDArray[np.float32]:
        """Log-mel [B, out_frames, n_mels]; nothing was written after it."""
        out = self.out.cpu().numpy()
        assert (out[-1] == 7.0).all()
        return out[:-1]

    def __call__(self) -> NDArray[np.float32]:
        self.queue()
        return self.result()


@by_preset
@pytest.mark.parametrize("signal", SIGNALS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("pcm", [False, True], ids=["float32", "int16"])
def test_against_fp64(spec: FrontendSpec, signal: Any, pcm: bool) -> None:
    for seed in range(3):
        x = signal(2.317, spec.sample_rate, seed)
        if pcm:
            x = np.round(x * 32_767).astype(np.int16)
        call = _Call(spec, [x])
        assert_within_bounds(call()[0], reference(x, spec), spec)
        assert not call.flags.any()


@few
@given(
    spec=st.sampled_from(list(FRONTENDS.values())),
    frames=st.integers(4, 40),
    beyond=st.lists(st.integers(0, 79), min_size=1, max_size=9),
    rows=st.integers(0, 27),
    pcm=st.booleans(),
)
def test_a_batch_of_different_lengths(
    spec: FrontendSpec, frames: int, beyond: list[int], rows: int, pcm: bool
) -> None:
    """The bits of a clip alone, zeros of log-mel after it, nothing read after its end."""
    clips = [
        signals.noise(1.0, spec.sample_rate, seed)[: spec.samples(frames) + more]
        for seed, more in enumerate(beyond)
    ]
    if pcm:
        clips = [np.round(x * 32_767).astype(np.int16) for x in clips]
    call = _Call(spec, clips, rows=rows)
    got = call()
    for row, x in zip(got, clips, strict=True):
        np.testing.assert_array_equal(row[:frames], _Call(spec, [x])()[0])
        assert_within_bounds(row[:frames], reference(x, spec), spec)
    assert (got[:, frames:] == padding_value(spec)).all()
    assert not call.flags.any()


@few
@given(
    spec=st.sampled_from(list(FRONTENDS.values())), extra=st.integers(0, 4_000), seed=st.integers(0)
)
def test_every_length_from_the_shortest(spec: FrontendSpec, extra: int, seed: int) -> None:
    least = spec.n_fft // 2 + 1 if spec.padding == "reflect" else spec.win_length
    x = signals.speech_like(1.0, spec.sample_rate, seed % 2**32)[: least + extra]
    assert_within_bounds(_Call(spec, [x])()[0], reference(x, spec), spec)


@by_preset
def test_a_short_clip_is_padded_with_zeros(spec: FrontendSpec) -> None:
    least = spec.samples(32)
    for samples in (0, 1, least // 2, least - 1):
        x = signals.noise(1.0, spec.sample_rate)[:samples]
        got = _Call(spec, [x], frames=32)()[0]
        assert_within_bounds(got, reference(np.pad(x, (0, least - samples)), spec), spec)


@by_preset
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_non_finite_sample_is_flagged(spec: FrontendSpec, value: float) -> None:
    clips = [signals.noise(0.3, spec.sample_rate, seed) for seed in range(3)]
    last = spec.samples(spec.frames(len(clips[0]))) - 1
    for position in (0, 1, spec.win_length, last):
        call = _Call(spec, clips)
        call.samples[1, position] = value
        call.queue()
        assert call.flags.tolist() == [0, 1, 0]
        call.samples[1, position] = 0.0
        call.queue()
        assert call.flags.tolist() == [0, 1, 0]  # or-ed, not cleared


@by_preset
@pytest.mark.parametrize("batch", [64, 257])
def test_large_batches_of_10_seconds(spec: FrontendSpec, batch: int) -> None:
    """Every clip has the bits of the clip alone."""
    clips = [signals.speech_like(10.0, spec.sample_rate, seed) for seed in range(3)]
    call = _Call(spec, clips)
    alone = torch.from_numpy(call()).cuda()
    call.samples = call.samples.repeat(batch // 3 + 1, 1)[:batch].contiguous()
    call.lengths = call.lengths.repeat(batch // 3 + 1)[:batch].contiguous()
    call.flags = torch.zeros(batch, dtype=torch.int32, device="cuda")
    call.out = torch.full((batch + 1, *alone.shape[1:]), 7.0, device="cuda")
    call.queue()
    assert torch.equal(call.out[:batch], alone.repeat(batch // 3 + 1, 1, 1)[:batch])
    assert (call.out[batch] == 7.0).all()


@by_preset
def test_the_host_build_is_as_exact(spec: FrontendSpec) -> None:
    """Where both are near the frame's peak they differ by the rounding of either at most."""
    x = signals.noise(2.0, spec.sample_rate)
    call = _Call(spec, [x])
    host = _core.log_mel_on_host_grid(call.frontend, x[None], frames=call.frames)
    # The FP32 rounding of 10·log10 near 100 dB, or less for the other logarithms.
    np.testing.assert_allclose(call(), host, rtol=0, atol=1e-4)


@by_preset
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_scale_and_an_offset_then_a_type(spec: FrontendSpec, dtype: Any) -> None:
    """As PyTorch has them, or a fused multiply-add; rows of padding too."""
    rng = np.random.default_rng(0)
    affine = rng.normal([[0.1], [1.0]], [[0.05], [2.0]], (2, spec.n_mels)).astype(np.float32)
    clips = [signals.speech_like(1.0, spec.sample_rate)]
    plain, call = _Call(spec, clips, rows=3), _Call(spec, clips, rows=3, affine=affine, dtype=dtype)
    plain.queue()
    call.queue()
    scales, offsets = torch.from_numpy(affine).cuda()
    x, got = plain.out[:-1], call.out[:-1]
    twice = (x * scales + offsets).to(got.dtype)
    once = (x.double() * scales + offsets).float().to(got.dtype)
    assert ((got == twice) | (got == once)).all()
    assert (call.out[-1] == 7.0).all()


@by_preset
def test_replays_from_a_cuda_graph(spec: FrontendSpec) -> None:
    """Nothing is allocated or waited for, and each replay reads the samples anew."""
    clips = [signals.speech_like(1.0, spec.sample_rate, seed) for seed in range(4)]
    call = _Call(spec, clips)
    call.queue()  # loads the kernel
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call.queue()
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        shuffled = [clips[i] for i in order]
        call.samples.copy_(torch.from_numpy(stacked(shuffled, room=3)[0]))
        call.out.fill_(7.0)
        graph.replay()
        np.testing.assert_array_equal(call.result(), _Call(spec, shuffled)())


def test_a_wrong_call_is_refused_before_the_launch() -> None:
    call = _Call(PANNS_16K, [signals.noise(1.0, 16_000)])
    call.frames = 0
    with pytest.raises(ValueError, match="frames is 0"):
        call.queue()
