"""Timing on a GPU: calls in alternating rounds, kernels on a cold L2 cache, and what follows."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from .harness import quartiles

ROUNDS = 10
WARMUP_CALLS = 5
# Calls of one contender in one round: as many as fill this, within bounds, in seconds.
ROUND_SECONDS = 0.1
CALLS_PER_ROUND = range(5, 51)
# Untimed calls at the start of a round, after the other contenders' ones.
SETTLING_CALLS = 2
# One point of a throughput sweep, in seconds.
SWEEP_SECONDS = 0.4
# Calls of a kernel in one round.
KERNEL_CALLS = 20
# More than any L2 cache, and reading it takes longer than queueing a kernel does from Python.
FLUSH_BYTES = 512 * 2**20

Call = Callable[[], Any]


def rounds(calls: Mapping[str, Call], time_one: Callable[[Call], float]) -> dict[str, list[Any]]:
    """Seconds of single calls by contender and round, the contenders in turn: A B A B …"""
    counts = {}
    for name, call in calls.items():
        for _ in range(WARMUP_CALLS):
            seconds = time_one(call)
        asked = round(ROUND_SECONDS / max(seconds, 1e-9))
        counts[name] = min(max(asked, CALLS_PER_ROUND[0]), CALLS_PER_ROUND[-1])
    taken: dict[str, list[Any]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            for _ in range(SETTLING_CALLS):
                call()
            torch.cuda.synchronize()
            taken[name].append([time_one(call) for _ in range(counts[name])])
    return taken


def wall_seconds(call: Call) -> float:
    """Of a call that returns when its answer is on the host."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def event_seconds(call: Call) -> float:
    """On the device's clock, of a call that leaves its answer there, from an idle device on."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    call()
    last.record()
    last.synchronize()
    milliseconds: float = first.elapsed_time(last)
    return 1e-3 * milliseconds


def throughput_on_device(call: Call, clips: int) -> float:
    """Clips per second of calls queued one after the other, on the device's clock."""
    call()
    torch.cuda.synchronize()
    repeats = max(3, round(SWEEP_SECONDS / max(event_seconds(call), 1e-9)))

    def many() -> None:
        for _ in range(repeats):
            call()

    return clips * repeats / event_seconds(many)


def stream_seconds(queue: Call, handle: int) -> float:
    """Mean seconds on the device of what ``queue`` puts on a stream, one after the other."""
    with torch.cuda.stream(torch.cuda.ExternalStream(handle)):
        return 1 / throughput_on_device(queue, 1)


def throughput_on_host(call: Call, clips: int, threads: int) -> float:
    """Clips per second of threads that call at the same time, each on a PyTorch stream of its own.

    Two threads let one copy while the other one's clips are computed.
    """
    streams = [torch.cuda.Stream() for _ in range(threads)]
    # Not one pool: what PyTorch and cuDNN prepare belongs to the thread that prepared it.
    pools = [ThreadPoolExecutor(1) for _ in streams]

    def work(stream: Any, repeats: int) -> None:
        with torch.cuda.stream(stream):
            for _ in range(repeats):
                call()

    def seconds(repeats: int) -> float:
        begin = time.perf_counter()
        pairs = zip(pools, streams, strict=True)
        for future in [pool.submit(work, stream, repeats) for pool, stream in pairs]:
            future.result()
        return time.perf_counter() - begin

    try:
        seconds(SETTLING_CALLS)
        repeats = max(2, round(SWEEP_SECONDS / (seconds(SETTLING_CALLS) / SETTLING_CALLS)))
        return clips * threads * repeats / seconds(repeats)
    finally:
        for pool in pools:
            pool.shutdown()


def cold_rounds(kernels: Mapping[str, Call]) -> dict[str, list[Any]]:
    """Seconds of single launches on a cold L2 cache, as ``rounds`` gives them.

    A large buffer is read before each launch. Reading leaves no line that has to be written back in
    the kernel's time, and the launch is queued before the reading ends.
    """
    buffer = torch.ones(FLUSH_BYTES // 4).cuda()
    total = torch.empty(()).cuda()
    taken: dict[str, list[Any]] = {name: [] for name in kernels}
    for number in range(ROUNDS + 1):
        for name, kernel in kernels.items():
            events = [
                [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                for _ in range(KERNEL_CALLS)
            ]
            torch.cuda.synchronize()
            for first, last in events:
                torch.sum(buffer, 0, out=total)
                first.record()
                kernel()
                last.record()
            torch.cuda.synchronize()
            if number:  # the first round warms up
                taken[name].append([1e-3 * first.elapsed_time(last) for first, last in events])
    return taken


def percentiles(taken: Sequence[Sequence[float]], scale: float) -> dict[str, Any]:
    """p50 and p99 (linear between neighbours), the least, how many, and each round's median."""
    values = scale * np.concatenate([np.asarray(part, float) for part in taken])
    return {
        "p50": float(np.quantile(values, 0.5)),
        "p99": float(np.quantile(values, 0.99)),
        "min": float(values.min()),
        "calls": len(values),
        "rounds": [scale * float(np.median(part)) for part in taken],
    }


def speed_up(ours: Sequence[Sequence[float]], peer: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Median and quartiles of the peer's time over ours, from the medians of each round."""
    ratios = [
        float(np.median(theirs) / np.median(own)) for own, theirs in zip(ours, peer, strict=True)
    ]
    return quartiles(ratios)


def teraflops(operations: float, seconds: float) -> float:
    """Floating-point operations per second, in units of 10¹²."""
    return operations / seconds / 1e12


def bandwidth(moved: int, kernel_seconds: float, copy_seconds: float) -> dict[str, float]:
    """What a kernel reaches beside a copy of as many bytes, read and written together.

    Args:
        moved: bytes that the kernel has to move: its inputs once and its outputs once.
        kernel_seconds: its time.
        copy_seconds: time of a device-to-device copy that reads half of ``moved`` and writes half.
    """
    return {
        "bytes": moved,
        "kernel_gb_per_s": moved / kernel_seconds / 1e9,
        "copy_gb_per_s": moved / copy_seconds / 1e9,
        "fraction_of_copy": copy_seconds / kernel_seconds,
    }
