"""The GPU suite's tables: the aims beside what was reached, embeddings, and the kernels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .report_corpus import Record

COMMAND = "make bench-gpu"
# Not a product: it stands where no TensorRT runs, and no aim is reached by it.
STAND_IN = "fusion_engine, PyTorch FP16 for want of TensorRT"
OURS, PRODUCT, EAGER = "fusion_engine", "fusion_engine, TensorRT FP16", "PyTorch eager FP16"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Aim:
    """What one figure should be.

    Args:
        what: for people.
        goal: the same in a few signs.
        case: whose record holds the figure.
        contender: and which of them.
        figure: the figure.
        unit: follows it, with the space where it has one.
        least: whether more is better.
        bound: the goal as a number.
    """

    what: str
    goal: str
    case: str
    contender: str
    figure: Callable[[Record], float]
    unit: str
    least: bool
    bound: float


_EMBED = "CNN14-Fusion FP16, 10 s"
AIMS = (
    Aim(
        f"{_EMBED}, batch 1, host to host, p50",
        "≤ 0.5 ms",
        "gpu-cnn14-10s",
        PRODUCT,
        lambda record: record["host_ms"]["p50"],
        " ms",
        False,
        0.5,
    ),
    Aim(
        f"{_EMBED}, host to host, best batch",
        "≥ 10 000 clips/s",
        "gpu-cnn14-10s",
        PRODUCT,
        lambda record: record["host_clips_per_s"],
        " clips/s",
        True,
        10_000,
    ),
    Aim(
        f"{_EMBED}, batch 1, against PyTorch eager FP16",
        "≥ 3×",
        "gpu-cnn14-10s",
        PRODUCT,
        lambda record: record["speed_up"]["host_ms"][EAGER]["median"],
        "×",
        True,
        3,
    ),
    *(
        Aim(
            f"fusion kernel, batch 64, {layout.replace('-', ' ').upper()}, of the copy bandwidth",
            "≥ 80 %",
            f"gpu-fusion-{layout}-b64",
            OURS,
            lambda record: 100 * record["fraction_of_copy"],
            " %",
            True,
            80,
        )
        for layout in ("fp32-nchw", "fp16-nhwc")
    ),
    *(
        Aim(
            f"fusion kernel, batch 1, {layout.replace('-', ' ').upper()}, p50",
            "≤ 5 µs",
            f"gpu-fusion-{layout}-b1",
            OURS,
            lambda record: record["kernel_us"]["p50"],
            " µs",
            False,
            5,
        )
        for layout in ("fp32-nchw", "fp16-nhwc")
    ),
    Aim(
        "frontend kernel, CNN14, 10 s, batch 1, p50",
        "≤ 15 µs",
        "gpu-frontend-cnn14-b1",
        OURS,
        lambda record: record["kernel_us"]["p50"],
        " µs",
        False,
        15,
    ),
)


def block(report: dict[str, Any]) -> str:
    """All tables and what they were measured on; without results the command that fills them."""
    results = report["results"]
    if not results:
        text = f"Not measured yet. On a machine with an NVIDIA GPU, `{COMMAND}` fills this table.\n"
        return f"{aims(results)}\n{text}"
    parts = [aims(results), embeddings(results), shares(results), kernels(results)]
    parts += [first_calls(results), missing(results), stand_in(results), footnote(report)]
    return "\n".join(part for part in parts if part)


def aims(results: Sequence[Record]) -> str:
    """Aims on an H200, and what was reached."""
    rows = []
    for aim in AIMS:
        record = _find(results, aim.case, aim.contender)
        reached = NOT_MEASURED
        if record is not None and _measured(record):
            try:
                value = aim.figure(record)
            except KeyError:  # a peer or a part of it did not run
                pass
            else:
                met = value >= aim.bound if aim.least else value <= aim.bound
                reached = f"{'**' if met else ''}{digits(value)}{aim.unit}{'**' if met else ''}"
        elif record is not None and "failed" in record:
            reached = f"failed: {record['failed']}"
        rows.append([aim.what, aim.goal, reached])
    return _table(["aim on an H200", "goal", "reached"], "llr", rows)


def embeddings(results: Sequence[Record]) -> str:
    """Latency at batch 1 and throughput at the best batch, one row per contender."""
    rows = []
    for record in results:
        if "host_ms" not in record or not _measured(record):
            continue
        throughput = [""] * 3
        if "device_clips_per_s" in record:
            host = record.get("host_clips_per_s")
            throughput = [
                "" if host is None else digits(host),
                f"{digits(record['device_clips_per_s'])} ({record['batch']})",
                digits(record["throughput_tflops"]),
            ]
        rows.append(
            [
                record["title"],
                record["contender"],
                *(_latency(record[key]) for key in ("host_ms", "device_ms")),
                digits(record["latency_tflops"]),
                *throughput,
                _against_eager(record),
            ]
        )
    heads = ["case", "contender", "host to host, ms", "on the device, ms", "TFLOP/s"]
    heads += ["clips/s, host", "clips/s, device (batch)", "TFLOP/s", "speed-up (quartiles)"]
    return _table(heads, "llrrrrrrr", rows)


def shares(results: Sequence[Record]) -> str:
    """What of a warm call at batch 1 is the network's, what the rest of the graph's and the host's.

    One row per contender of ours whose calls are CUDA graphs.
    """
    rows = []
    for record in results:
        if "graph_ms" not in record:
            continue
        host, graph, network = record["host_ms"]["p50"], record["graph_ms"], record["network_ms"]
        cells = [host, graph, network, 1e3 * (graph - network), 1e3 * (host - graph)]
        rows.append([record["title"], record["backend"], *map(digits, cells)])
    heads = ["batch 1", "network", "host to host, ms", "graph on the device, ms", "network, ms"]
    return _table([*heads, "frontend, fusion, copies, µs", "host beside it, µs"], "llrrrrr", rows)


def kernels(results: Sequence[Record]) -> str:
    """The kernels alone."""
    rows = []
    for record in results:
        if "kernel_us" not in record:
            continue
        spent = record["kernel_us"]
        if record["contender"] == OURS:
            copied = f"{digits(record['copy_us']['p50'])}"
            share = f"**{digits(100 * record['fraction_of_copy'])} %**"
            rate = f"{digits(record['kernel_gb_per_s'])}"
        else:
            faster = record["speed_up_of_ours"]["median"]
            copied, share, rate = "", f"ours is {digits(faster)}× as fast", ""
        cells = [record["title"], record["contender"], digits(spent["p50"]), digits(spent["p99"])]
        rows.append([*cells, rate, copied, share])
    heads = ["kernel", "contender", "p50, µs", "p99, µs", "GB/s", "copy of as many bytes, µs"]
    return _table([*heads, "of the copy bandwidth"], "llrrrrr", rows)


def first_calls(results: Sequence[Record]) -> str:
    """First calls, and those after a change of the clip's length."""
    rows = [
        [record["contender"], digits(record["open_ms"])]
        + [digits(record[key][n]) for key in ("10s_ms", "1s_ms") for n in ("first", "second")]
        + [digits(record["1s_ms"]["last"])]
        for record in results
        if "open_ms" in record
    ]
    heads = ["CNN14-Fusion, batch 1, ms", "open", "first, 10 s", "second", "then first, 1 s"]
    return _table([*heads, "second", "tenth"], "lrrrrrr", rows)


def missing(results: Sequence[Record]) -> str:
    """Who was not measured or failed, and why; contenders of one reason once."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for record in results:
        for kind in ("not_measured", "failed"):
            if kind in record:
                cases = reasons.setdefault((record["contender"], f"{kind}: {record[kind]}"), [])
                cases.append(record["title"])
    rows = [
        [contender, text.replace("not_measured", NOT_MEASURED), f"{len(cases)}, from {cases[0]} on"]
        for (contender, text), cases in reasons.items()
    ]
    return _table(["contender", "why there is no figure", "cases"], "lll", rows)


def stand_in(results: Sequence[Record]) -> str:
    """What was measured in TensorRT's place, where it was."""
    if not any(record["contender"].startswith(STAND_IN) for record in results):
        return ""
    return (
        f"No TensorRT runs on this machine. `{STAND_IN}` is the engine with PyTorch's network, "
        "cuDNN's kernels one by one, where a plan would be: everything around the network is the "
        "product's, the network's own time is not.\n"
    )


def footnote(report: dict[str, Any]) -> str:
    """How to read the tables, and what they were measured on."""
    machine = report["machine"]
    gpu = machine["gpu"]
    libraries = ", ".join(
        f"{name} {version}" for name, version in machine["libraries"].items() if version
    )
    details = ", ".join(
        f"{label} {gpu[key]}"
        for key, label in (
            ("driver", "driver"),
            ("cuda", "CUDA"),
            ("cudnn", "cuDNN"),
            ("sm_clock", "SM clock as read"),
            ("sm_clock_max", "of at most"),
            ("power_limit", "power limit"),
        )
        if gpu.get(key)
    )
    return (
        "Bold: the aim is met. Answers are compared with FP64 first. Latency: batch 1, p50 (p99), "
        "contenders in turn; host to host by the wall clock, on the device by CUDA events. "
        "Throughput: the best batch of a sweep; from the host with two calling threads. TFLOP/s: "
        "of 40 GFLOP per 10 s clip (CNN14), 1.7 per segment (VGGish), 261 per 1024 frames (AST). "
        "Speed-up: host to host against PyTorch eager FP16. Kernels: cold L2 cache, between two "
        "events; the copy reads half of the kernel's bytes and writes half. PyTorch: the published "
        "networks in channels_last after a cuFFT frontend, FP32 without TF32; "
        "torch.compile's first calls find the compiler's cache as the cases before left it. "
        f"{gpu['name']}, {details}; {machine['cpu']}, {machine['cores']} cores, {machine['os']}; "
        f"Python {machine['python']}, {libraries}; {report['date']}.\n"
    )


def line(record: Record) -> str:
    """A record in one line, for the terminal."""
    head = f"{record['case']:24} {record['contender']:42}"
    for kind in ("failed", "not_measured"):
        if kind in record:
            return f"{head} {kind.replace('_', ' ')}: {record[kind]}"
    figures = {
        key: value["p50"] if isinstance(value, dict) else value
        for key, value in record.items()
        if isinstance(value, int | float) or (isinstance(value, dict) and "p50" in value)
    }
    return f"{head} {'  '.join(f'{key} {value:.4g}' for key, value in figures.items())}"


def _find(results: Sequence[Record], case: str, contender: str) -> Record | None:
    for record in results:
        if record["case"] == case and record["contender"] == contender:
            return record
    return None


def _measured(record: Record) -> bool:
    return "failed" not in record and "not_measured" not in record


def _latency(spent: dict[str, Any]) -> str:
    return f"{digits(spent['p50'])} ({digits(spent['p99'])})"


def _against_eager(record: Record) -> str:
    found = record.get("speed_up", {}).get("host_ms", {}).get(EAGER)
    if found is None:
        return ""
    return f"**{digits(found['median'])}×** ({digits(found['q1'])}–{digits(found['q3'])})"


def _table(heads: Sequence[str], align: str, rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    marks = "|".join("--:" if side == "r" else "---" for side in align)
    lines = [f"| {' | '.join(heads)} |", f"|{marks}|"]
    # A bar ends a cell.
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def digits(value: float) -> str:
    """Three digits, more for whole numbers that need them."""
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f}"
