"""Pools and steps inferred from lengths alone, against chains of torch's own layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fusion_engine import ExportError
from fusion_engine.export.strides import align_dynamic, align_fixed

# Without values: only the shapes are asked for.
FLOOR = nn.AvgPool1d(2)
CEIL = nn.MaxPool1d(2, ceil_mode=True)
SAME = nn.Conv1d(1, 1, 3, stride=2, padding=1, device="meta")
VALID = nn.Conv1d(1, 1, 5, stride=2, device="meta")
PATCH = nn.Conv1d(1, 1, 4, stride=4, device="meta")
LONGER = nn.Conv1d(1, 1, 4, padding=2, device="meta")
THIRD = nn.AvgPool1d(3)
CHAINS = {
    "five pools": ([FLOOR] * 5, 32),
    "five convolutions that round up": ([SAME] * 5, 32),
    "pools in ceil mode": ([CEIL] * 3, 8),
    "no padding": ([VALID] * 3, 8),
    "up and down": ([SAME, FLOOR, SAME, FLOOR], 16),
    "all kinds": ([LONGER, FLOOR, CEIL, VALID], 8),
    "a patchify stem": ([PATCH, PATCH, FLOOR], 32),
    "thirds": ([THIRD, SAME], 6),
    "one more step than frames": ([LONGER], 1),
}


def outputs_of(chain, frames):
    x, outputs = torch.zeros(1, 1, frames, device="meta"), []
    with torch.no_grad():
        for layer in chain:
            x = layer(x)
            outputs.append(x)
    return outputs


def steps_of(chain, least=1, most=10**6):
    def steps(frames):
        if not least <= frames <= most:
            raise ExportError("not this one")
        try:
            return [output.shape[2] for output in outputs_of(chain, frames)]
        except RuntimeError as error:  # shorter than a kernel
            raise ExportError(str(error)) from error

    return steps


def names_of(chain):
    return [f"layer{i}" for i in range(len(chain))]


def check(alignment, chain, frames):
    """The engine's count is the coarsest map's, and each map is cut into that many windows."""
    outputs = outputs_of(chain, frames)
    count = (frames + alignment.step_offset) // alignment.frames_per_step
    assert count == min(output.shape[2] for output in outputs)
    for output, pool, fitted in zip(outputs, alignment.pools, alignment.fitted, strict=True):
        if not fitted:
            assert output.shape[2] // pool == count


@pytest.mark.parametrize(("chain", "stride"), CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("least", [32, 45, 64])
def test_every_length(chain, stride, least):
    found = align_dynamic(names_of(chain), steps_of(chain, least, 2000), least, 2000)
    assert found.frames_per_step == stride
    fine = [1, *(round(2000 / output.shape[2]) for output in outputs_of(chain, 2000))][1:]
    assert list(found.pools) == [stride // s for s in fine]
    assert not found.fitted[-1]
    for frames in range(least, 200):
        check(found, chain, frames)


@pytest.mark.parametrize(("chain", "stride"), CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("frames", [998, 1000, 1001, 1024])
def test_one_length(chain, stride, frames):
    found = align_fixed(names_of(chain), steps_of(chain), frames)
    assert found.frames_per_step == stride
    assert list(found.pools)[-1] == 1
    check(found, chain, frames)
    alone = align_fixed(["last"], lambda frames: steps_of(chain)(frames)[-1:], frames)
    assert (alone.pools, alone.fitted) == ((1,), (False,))


def test_the_pool_is_the_stride_and_not_its_neighbour():
    """1001 frames are 32 steps of 32 rounded up, or of 31 rounded down: other lengths tell."""
    chain = [nn.Identity(), *[SAME] * 5]
    assert outputs_of(chain, 1001)[-1].shape[2] == 1001 // 31 == -(-1001 // 32)
    found = align_fixed(names_of(chain), steps_of(chain), 1001)
    assert found.pools == (32, 16, 8, 4, 2, 1)
    # A module that takes no other length is pooled with the tail dropped.
    only = align_fixed(names_of(chain), steps_of(chain, 1001, 1001), 1001)
    assert only.pools == (31, 16, 8, 4, 2, 1)


def test_without_a_map():
    found = align_fixed(["a", "b"], lambda frames: [None, None], 100)
    assert found == align_dynamic(["a", "b"], lambda frames: [None, None], 10, 100)
    assert (found.frames_per_step, found.coarsest, found.pools) == (None, None, (1, 1))


def test_a_vector_among_maps():
    found = align_fixed(["v", "m"], lambda frames: [None, -(-frames // 4)], 1001)
    assert (found.frames_per_step, found.step_offset, found.pools) == (4, 3, (1, 1))


@pytest.mark.parametrize("most", [32, 33, 40])
def test_a_range_too_short_to_see_the_stride(most):
    chain = [FLOOR] * 5
    found = align_dynamic(names_of(chain), steps_of(chain, 32, most), 32, most)
    for frames in range(32, most + 1):
        check(found, chain, frames)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (lambda t: [2 * t], r"'a' gives 202 steps for 101 frames, more than one a frame"),
        (lambda t: [0], r"'a' gives no step for 101 frames"),
        (lambda t: [100, 70], r"'a' gives 100 steps for 101 frames, and no pooling aligns"),
    ],
)
def test_no_alignment_of_one_length(steps, message):
    with pytest.raises(ExportError, match=message):
        align_fixed(["a", "b"][: len(steps(1))], steps, 101)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (lambda t: [round(t**0.5)], r"'a' gives .*no pooling .*at a steady number of frames.*Fix"),
        (lambda t: [t // 3, t // 4], r"'a' gives .*does not divide the 4 frames of 'b'"),
        (lambda t: [t // 64], r"'a' gives no step for 16 frames"),
        (lambda t: [2 * t], r"'a' gives "),
    ],
)
def test_no_alignment_of_every_length(steps, message):
    with pytest.raises(ExportError, match=message):
        align_dynamic(["a", "b"][: len(steps(1))], steps, 16, 1000)


def test_fitted_maps_are_pooled_in_ceil_mode():
    """What the graph does to a fitted map is torch's own ``ceil_mode``."""
    from fusion_engine.export.tapping import _ending_at

    x = torch.randn(2, 3, 501, 4)
    fitted = _ending_at(x, 2 * 251)
    assert torch.equal(F.max_pool2d(fitted, (2, 1)), F.max_pool2d(x, (2, 1), ceil_mode=True))
