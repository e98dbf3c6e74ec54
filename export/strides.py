"""How the time axes of layers are aligned: Eq. 1's pools, inferred from the lengths of maps.

Every chain of convolutions and pools turns L frames into floor((L + offset) / stride) steps, where
rounding up is an offset of stride - 1. The coarsest map sets the steps T_o of the frame features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..errors import ExportError

# Steps of every layer for a number of frames; ``None`` for a vector.
Steps = Callable[[int], Sequence[int | None]]


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How layers share one time axis.

    Args:
        frames_per_step: frames of log-mel per frame feature; ``None`` without a map.
        step_offset: T_o = (T + step_offset) // frames_per_step.
        coarsest: index of the map that sets T_o; ``None`` without a map.
        pools: each layer's time pool, 1 for a vector.
        fitted: whether a map's steps must be made T_o · pool, since T_l // pool is another number.
    """

    frames_per_step: int | None = None
    step_offset: int = 0
    coarsest: int | None = None
    pools: tuple[int, ...]
    fitted: tuple[bool, ...]


def align_fixed(names: Sequence[str], steps: Steps, frames: int) -> Alignment:
    """The alignment for one input length.

    A map of T_l steps is pooled by k, so that T_l / k is T_o when rounded down or, as max-pooling
    with ``ceil_mode`` does it, up. Where both do, it is the one that holds at other lengths, if the
    module takes any. Where neither does, since convolutions have no padding, k is the nearest to
    T_l / T_o.

    Args:
        names: of the layers, for errors.
        steps: runs the module; raises ``ExportError`` for a length that it does not take.
        frames: the length.

    Raises:
        ExportError: a map that no pooling aligns.
    """
    times = steps(frames)
    coarsest = _coarsest(names, times, frames)
    if coarsest is None:
        return _vectors(len(names))
    step_count = times[coarsest] or 0
    if 2 * step_count >= 3 * frames:
        raise ExportError(
            f"submodule {names[coarsest]!r} gives {step_count} steps for {frames} frames, more "
            "than one a frame: name a submodule before the upsampling, or a coarser one as well"
        )
    others = _shorter(steps, frames, step_count)
    ratio = _pool(frames, step_count, [(t, at[coarsest]) for t, at in others()])
    pools, fitted = [], []
    for index, (name, time) in enumerate(zip(names, times, strict=True)):
        if time is None:
            pools.append(1)
            fitted.append(False)
            continue
        pool = _pool(time, step_count, ((at[index], at[coarsest]) for _, at in others()))
        if abs(time - pool * step_count) > time // 10:
            raise ExportError(
                f"submodule {name!r} gives {time} steps for {frames} frames, and no pooling aligns "
                f"that with the {step_count} of {names[coarsest]!r}: export them one by one"
            )
        pools.append(pool)
        fitted.append(time // pool != step_count)
    return Alignment(
        frames_per_step=ratio,
        step_offset=0 if frames // ratio == step_count else step_count * ratio - frames,
        coarsest=coarsest,
        pools=tuple(pools),
        fitted=tuple(fitted),
    )


def align_dynamic(names: Sequence[str], steps: Steps, least: int, most: int) -> Alignment:
    """The alignment for every length from ``least`` to ``most`` frames.

    Args:
        names: of the layers, for errors.
        steps: runs the module.
        least: the fewest frames.
        most: the most.

    Raises:
        ExportError: a map whose steps are not floor((L + offset) / stride), or whose stride does
            not divide that of the coarsest.
    """
    probed = {t: steps(t) for t in _lengths(least, most)}
    longest = max(probed)
    coarsest = _coarsest(names, probed[longest], longest)
    if coarsest is None:
        return _vectors(len(names))
    _coarsest(names, probed[least], least)

    def coarse(frames: int) -> int:
        if frames not in probed:
            probed[frames] = steps(frames)
        return probed[frames][coarsest] or 0

    first = _next_step(coarse, least, most)
    second = None if first is None else _next_step(coarse, first, most)
    if first is not None and second is not None:
        strides: Iterable[int] = [second - first]
    else:  # the range of lengths is too short to see two steps
        strides = range(1, most + 1)
    known = {index: [(t, at[index]) for t, at in probed.items()] for index in range(len(names))}
    found = _fit(known[coarsest], strides)
    if found is None:
        raise _unaligned(names[coarsest], known[coarsest])
    stride, low, high = found
    offset = min(max(0, low), high)
    pools, fitted = [], []
    for index, name in enumerate(names):
        if probed[longest][index] is None:
            pools.append(1)
            fitted.append(False)
            continue
        found = _fit(known[index], [r for r in range(1, stride + 1) if stride % r == 0])
        if found is None:
            raise _unaligned(name, known[index], stride, names[coarsest])
        own, low, high = found
        pools.append(stride // own)
        # The pools of all maps agree for all lengths only if the offsets are the same.
        fitted.append(index != coarsest and not low == high == offset)
    return Alignment(
        frames_per_step=stride,
        step_offset=offset,
        coarsest=coarsest,
        pools=tuple(pools),
        fitted=tuple(fitted),
    )


def _vectors(count: int) -> Alignment:
    return Alignment(pools=(1,) * count, fitted=(False,) * count)


def _coarsest(names: Sequence[str], times: Sequence[int | None], frames: int) -> int | None:
    """Index of the map with the fewest steps, once all have some."""
    maps = [(time, index) for index, time in enumerate(times) if time is not None]
    if not maps:
        return None
    time, index = min(maps)
    if time < 1:
        raise ExportError(
            f"submodule {names[index]!r} gives no step for {frames} frames: export for longer "
            "input, frames=, seconds= or dynamic_from="
        )
    return index


def _pool(time: int, step_count: int, others: Iterable[tuple[int | None, int | None]]) -> int:
    """The pool that makes ``step_count`` steps of ``time``; ``others`` are pairs of both."""
    down, up = max(1, time // step_count), -(-time // step_count)
    fits_down, fits_up = time // down == step_count, -(-time // up) == step_count
    if not fits_down and not fits_up:
        return max(1, round(time / step_count))
    if fits_down and fits_up and down != up:
        for fine, coarse in others:
            if fine is None or coarse is None:
                break
            fits_down &= fine // down == coarse
            fits_up &= -(-fine // up) == coarse
        return up if fits_up and not fits_down else down
    return up if fits_up else down


def _shorter(
    steps: Steps, frames: int, step_count: int
) -> Callable[[], Iterable[tuple[int, Sequence[int | None]]]]:
    """Steps at lengths that tell a stride from its neighbour, where the module takes them."""

    def found() -> Iterable[tuple[int, Sequence[int | None]]]:
        stride = -(-frames // step_count)
        for length in sorted({n * stride + 1 for n in (1, 2, 3, 5, 8)}):
            if length < frames:
                try:
                    yield length, steps(length)
                except ExportError:
                    continue  # it takes this one length, or none as short

    return found


def _lengths(least: int, most: int) -> tuple[int, ...]:
    """Lengths at which the inferred pooling must hold: the shortest, odd ones, a long one."""
    candidates = (least, least + 1, 2 * least + 1, 3 * least + 5, 16 * least - 1)
    return tuple(sorted({min(t, most) for t in candidates}))


def _next_step(steps: Callable[[int], int], start: int, most: int) -> int | None:
    """The shortest length above ``start`` with more steps; ``None`` above ``most``."""
    low, high, now = start, start + 1, steps(start)
    while high < most and steps(high) == now:
        low, high = high, 2 * high - start
    high = min(high, most)
    if steps(high) == now:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if steps(middle) == now:
            low = middle
        else:
            high = middle
    return high


def _fit(
    known: Sequence[tuple[int, int | None]], strides: Iterable[int]
) -> tuple[int, int, int] | None:
    """The stride with which floor((L + offset) / stride) fits, and its least and largest offset.

    Of several strides the one that is nearest to the longest input's frames per step.
    """
    longest, last = max((frames, time or 1) for frames, time in known)
    for stride in sorted(strides, key=lambda r: abs(longest - r * last)):
        low = max(stride * (time or 0) - frames for frames, time in known)
        high = min(stride * (time or 0) + stride - 1 - frames for frames, time in known)
        if low <= high:
            return stride, low, high
    return None


def _unaligned(
    name: str,
    known: Sequence[tuple[int, int | None]],
    stride: int | None = None,
    coarsest: str = "",
) -> ExportError:
    shown = ", ".join(f"{time} steps for {frames}" for frames, time in sorted(known)[:4])
    why = (
        "they do not grow by one at a steady number of frames"
        if stride is None
        else f"its stride does not divide the {stride} frames of {coarsest!r}"
    )
    return ExportError(
        f"submodule {name!r} gives {shown} frames, and no pooling aligns that for every length, "
        f"since {why}. Fix the length with frames= or seconds=."
    )
