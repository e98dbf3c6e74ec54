"""The GPU suite where there is no GPU: its cases run on the CPU with CUDA's clock replaced."""

import contextlib
import ctypes
import inspect
import json
import math
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import (
    cases_gpu,
    cases_gpu_kernels,
    gpu_engines,
    gpu_timing,
    machine,
    peers_gpu,
    report,
    report_gpu,
    run,
)
from benchmarks.harness import Case, Records
from fusion_engine import Engine, _core
from fusion_engine.engine.tensorrt import build
from fusion_engine.export import resolve

from . import signals
from .engine.cuda.engines import put_double_in_place
from .engine.cuda.torch_double import HostTorchNetwork
from .engine.cuda.torch_network import open_with_torch

pytestmark = pytest.mark.heavy


class WallEvent:
    """An event of a device that has done all that was queued."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = math.nan

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: "WallEvent") -> float:
        return 1e3 * (later.at - self.at)


@pytest.fixture
def on_cpu(monkeypatch):
    """PyTorch's CUDA calls, on the CPU; few and short repetitions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, value in {
        "Event": WallEvent,
        "ExternalStream": lambda handle: None,
        "Stream": lambda: None,
        "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda: None,
        "current_stream": lambda: SimpleNamespace(cuda_stream=0, synchronize=lambda: None),
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for owner in (torch.Tensor, torch.nn.Module):
        monkeypatch.setattr(owner, "cuda", lambda self: self)
    for name, value in {
        "ROUNDS": 2,
        "WARMUP_CALLS": 1,
        "ROUND_SECONDS": 1e-3,
        "CALLS_PER_ROUND": range(1, 3),
        "SETTLING_CALLS": 1,
        "SWEEP_SECONDS": 1e-3,
        "KERNEL_CALLS": 2,
        "FLUSH_BYTES": 2**10,
    }.items():
        monkeypatch.setattr(gpu_timing, name, value)
    monkeypatch.setattr(cases_gpu, "HostToHost", partial(peers_gpu.HostToHost, device="cpu"))
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    settings = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = settings
    torch.set_num_threads(threads)


class CpuProduct(gpu_engines.Product):
    def open(self, model, purpose, folder, **options):
        return Engine(self.file(model, purpose, folder), device="cpu", threads=1, **options)


def at(address: int, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(memory, dtype).reshape(shape)


def queue_log_mel(
    frontend, *, tables, samples, clips, stride, frames, out, out_frames, flags, **rest
):
    """``_core.log_mel_cuda`` on host addresses, by its algorithm's build for the host."""
    assert at(tables, (len(frontend.data),), np.uint8).tobytes() == frontend.data
    assert rest == {"dtype": "float32", "stream": 0}
    result = _core.log_mel_on_host_grid(
        frontend,
        at(samples, (clips, stride)),
        frames=frames,
        out_frames=out_frames,
        flags=at(flags, (clips,), np.uint32),
    )
    at(out, result.shape)[:] = result


@pytest.fixture
def host_kernels(on_cpu, monkeypatch):
    """The two kernels on host addresses; batches of one and two clips of a second."""
    layers: list[dict[str, Any]] = []

    def device_layer(data, **options):
        _core.DeviceLayer(data, **options)  # takes or refuses them
        layers.append({"data": data, **options})
        return layers[-1]

    def queue_fusion(chosen, *, clips, embedding, flags, stream):
        maps = []
        for layer in chosen:
            dtype = np.dtype(layer["dtype"])
            strides = [stride * dtype.itemsize for stride in layer["strides"]]
            flat = at(layer["data"], (math.prod(layer["shape"]),), dtype)
            maps.append(np.lib.stride_tricks.as_strided(flat, layer["shape"], strides))
        result, raised = _core.fuse(maps, [layer["time_pool"] for layer in chosen])
        at(embedding, result.shape)[:] = result
        at(flags, raised.shape, np.uint32)[:] |= raised

    double = SimpleNamespace(
        DeviceLayer=device_layer, fuse_cuda=queue_fusion, log_mel_cuda=queue_log_mel
    )
    monkeypatch.setattr(cases_gpu_kernels, "_core", double)
    monkeypatch.setattr(cases_gpu_kernels, "SECONDS", 1)
    return double


# What a machine with a GPU may lack; pytest and hypothesis are for its tests.
OPTIONAL = [
    "librosa",
    "matplotlib",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "polars",
    "pooch",
    "pyarrow",
    "ray",
    "requests",
    "rich",
    "scipy",
    "sklearn",
    "soundfile",
    "soxr",
    "tensorrt",
    "tensorrt_rtx",
    "torchlibrosa",
    "transformers",
    "typer",
]
OPTIONS = ["--collect-only", "-q", "-p", "no:cacheprovider"]
GPU_TESTS = sorted(
    str(path.relative_to(machine.ROOT))
    for path in (machine.ROOT / "tests").rglob("test_*.py")
    if "mark." + "gpu" in path.read_text()
)


@pytest.mark.parametrize(
    ("absent", "program"),
    [
        ([*OPTIONAL, "pytest", "hypothesis"], "from benchmarks import report, run"),
        (OPTIONAL, f"import pytest\nassert not pytest.main([*{OPTIONS}, *{GPU_TESTS}])"),
    ],
    ids=["benchmarks", "tests"],
)
def test_a_bare_machine_imports_the_gpu_targets(absent, program):
    block = f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n"
    done = subprocess.run(
        [sys.executable, "-c", block + program],
        cwd=machine.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_every_case_is_listed():
    names = [case.name for case in cases_gpu.cases()]
    assert len(set(names)) == len(names) == 4 + 6 + 6 + 1
    for model in ("cnn14", "vggish", "ast"):
        assert {f"gpu-{model}-1s", f"gpu-{model}-10s", f"gpu-frontend-{model}-b64"} <= set(names)
    assert {aim.case for aim in report_gpu.AIMS} <= set(names)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_it_says_so_and_ends_with_status_1(tmp_path, capsys):
    output = tmp_path / "gpu.json"
    assert run.main(["--suite", "gpu", "--output", str(output)]) == 1
    assert "the gpu suite cannot run: PyTorch finds no CUDA GPU" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("layout", list(cases_gpu_kernels.LAYOUTS))
def test_the_fusion_case_measures_the_right_answer(layout, host_kernels):
    ours, *peers = cases_gpu_kernels.fusion(layout, 2)
    assert ours["contender"] == "fusion_engine"
    assert ours["check"]["error"] <= ours["check"]["tolerance"]
    size = 4 if layout == "fp32-nchw" else 2
    moved = size * 2 * (256 * 12 * 8 + 2048 * 3 * 2) + 4 * 2 * 6144 + 4 * 2
    assert ours["bytes"] == moved
    assert math.isclose(
        ours["fraction_of_copy"], ours["copy_us"]["p50"] / ours["kernel_us"]["p50"], rel_tol=1e-9
    )
    assert len(peers) == 2
    assert all(peer["kernel_us"]["calls"] == 4 for peer in peers)


@pytest.mark.parametrize("model", ["cnn14", "vggish", "ast"])
def test_the_frontend_case_measures_the_right_answer(model, host_kernels):
    ours, *peers = cases_gpu_kernels.frontend(model, 2)
    assert ours["check"]["error"] <= ours["check"]["tolerance"]
    assert [peer["contender"] for peer in peers] == ["PyTorch, cuFFT", "torchlibrosa"]
    assert ("not_measured" in peers[1]) == (model != "cnn14")


def test_a_wrong_kernel_fails_and_is_not_timed(host_kernels, monkeypatch):
    host_kernels.fuse_cuda = lambda *given, **named: None  # the output keeps its NaN
    (case,) = (c for c in cases_gpu_kernels.cases() if c.name == "gpu-fusion-fp32-nchw-b1")
    monkeypatch.setattr(gpu_timing, "cold_rounds", lambda kernels: pytest.fail("timed"))
    (job,) = case.build(None)
    (record,) = job.produce()
    assert record["failed"].startswith(
        "WrongAnswerError: largest difference / largest value is nan"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the artifact is exported once."""
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture
def short_vggish(on_cpu, monkeypatch):
    """Its first layers, batches of two clips, and a product that runs on the CPU."""
    vggish = resolve("vggish")
    monkeypatch.setattr(type(vggish), "default_layers", (2, 5))
    monkeypatch.setattr(cases_gpu, "BATCHES", (2, 3))
    monkeypatch.setattr(cases_gpu, "TUNED_CLIPS", 2)
    product = CpuProduct("fusion_engine, here", "float32", lambda: None, gpu_engines.artifact)
    absent = gpu_engines.Product("fusion_engine, there", "float16", lambda: "no such library", None)
    monkeypatch.setattr(gpu_engines, "products", lambda: (product, absent))
    monkeypatch.setattr(gpu_engines, "stages", lambda engine, samples: {"backend": engine.backend})
    monkeypatch.setattr(cases_gpu, "compiler_missing", lambda: None)
    monkeypatch.setattr(gpu_engines, "onnxruntime_missing", lambda: None)
    real = peers_gpu.OnnxRuntimePeer
    monkeypatch.setattr(
        cases_gpu,
        "OnnxRuntimePeer",
        lambda path, model, providers: real(path, model, providers[-1:], "cpu"),
    )


def test_an_embedding_case_from_export_to_table(short_vggish, folder, monkeypatch):
    monkeypatch.setattr(cases_gpu, "SECONDS", (2,))
    job = partial(cases_gpu.embed, "vggish", 2)
    case = Case("toy", "VGGish, 2 s", partial(cases_gpu._records, job))
    records = list(run.run_case(case, folder, 1))
    by_name = {record["contender"]: record for record in records}
    assert list(by_name) == [
        "fusion_engine, here",
        "fusion_engine, there",
        "PyTorch eager FP32",
        "PyTorch eager FP16",
        "torch.compile max-autotune FP16",
        cases_gpu.ONNX_PEER,
    ]
    assert by_name.pop("fusion_engine, there")["not_measured"] == "no such library"
    for name, record in by_name.items():
        assert "failed" not in record, record
        assert record["host_ms"]["p50"] > 0
        assert set(record["check"]) == {"latency", "throughput"}
        assert math.isclose(
            record["latency_tflops"],
            2 * 1.7e9 / (1e-3 * record["device_ms"]["p50"]) / 1e12,
            rel_tol=1e-9,
        )
        batches = ["2"] if name.startswith("torch.compile") else ["2", "3"]
        assert list(record["sweep_clips_per_s"]) == batches
        assert ("host_clips_per_s" in record) == (len(batches) > 1)
    ours = by_name["fusion_engine, here"]
    assert set(ours["speed_up"]["host_ms"]) == set(by_name) - {"fusion_engine, here"}
    json.dumps(records)
    rows = report_gpu.embeddings(records).splitlines()
    assert len(rows) == 2 + len(by_name)
    assert "no such library" in report_gpu.missing(records)
    assert ours["backend"].startswith("onnxruntime")
    assert [name for name, record in by_name.items() if "backend" in record] == [ours["contender"]]


def test_a_wrong_contender_fails_and_the_others_are_measured(short_vggish, folder, monkeypatch):
    right = gpu_engines.on_device

    def wrong(engine):
        return lambda samples: right(engine)(samples).roll(1, dims=1)

    monkeypatch.setattr(gpu_engines, "on_device", wrong)
    records = {r["contender"]: r for r in cases_gpu.embed("vggish", 1, folder)}
    assert "WrongAnswerError" in records["fusion_engine, here"]["failed"]
    assert "host_ms" not in records["fusion_engine, here"]
    assert records["PyTorch eager FP32"]["device_clips_per_s"] > 0
    assert "sweep_clips_per_s" not in records["torch.compile max-autotune FP16"]


def test_what_was_measured_before_a_failure_is_kept(short_vggish, folder, monkeypatch):
    def full(call, clips, threads):
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(gpu_timing, "throughput_on_host", full)
    records = {r["contender"]: r for r in cases_gpu.embed("vggish", 1, folder)}
    eager = records["PyTorch eager FP32"]
    assert eager["failed"] == "RuntimeError: out of memory"
    assert eager["host_ms"]["p50"] > 0

    def lost(calls, time_one):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(gpu_timing, "rounds", lost)
    *found, last = cases_gpu_kernels.failing(
        "fusion_engine", partial(cases_gpu.embed, "vggish", 1, folder)
    )
    assert [record["contender"] for record in found] == list(records)
    assert last == {"contender": "fusion_engine", "failed": "RuntimeError: the device is gone"}


def test_figures_that_fail_leave_the_times(short_vggish, folder, monkeypatch):
    def lost(engine, samples):
        raise RuntimeError("no such slot")

    monkeypatch.setattr(gpu_engines, "stages", lost)
    records = {r["contender"]: r for r in cases_gpu.embed("vggish", 1, folder)}
    ours = records["fusion_engine, here"]
    assert ours["figures_failed"] == "RuntimeError: no such slot"
    assert ours["host_clips_per_s"] > 0
    assert "failed" not in ours


@pytest.mark.parametrize("batch", [1, 3])
def test_the_stages_of_a_call(batch, on_cpu, two_layers, monkeypatch):
    """Of the engine on the double: the graph of its slot, and one of the network alone."""
    network = partial(HostTorchNetwork, put_double_in_place(monkeypatch))
    queued = []
    monkeypatch.setattr(
        gpu_timing, "stream_seconds", lambda queue, handle: queued.append(queue) or 2e-3
    )
    samples = np.stack([signals.noise(1.0, 16_000, seed) for seed in range(batch)])
    with open_with_torch(two_layers, network=network) as engine:
        before = engine.embed(samples)
        got = gpu_engines.stages(engine, samples)
        assert got == {
            "backend": engine.backend,
            "captured": True,
            "graph_ms": 2.0,
            "network_ms": 2.0,
        }
        whole, alone = (call.func.__self__ for call in queued)
        # Copies, the two kernels, and the run and what repeats it.
        assert len(whole.work) > len(alone.work) == 1
        assert np.array_equal(engine.embed(samples), before)


def test_without_a_graph_there_is_no_time_of_it(on_cpu, two_layers, monkeypatch):
    put_double_in_place(monkeypatch)
    with Engine(two_layers, device="cuda") as engine:  # on ONNX Runtime
        got = gpu_engines.stages(engine, signals.noise(1.0, 16_000, 0)[None])
        assert got == {"backend": engine.backend, "captured": False}


def test_the_time_of_what_is_queued(on_cpu):
    spent = gpu_timing.stream_seconds(partial(time.sleep, 2e-3), 0)
    assert 2e-3 <= spent < 1.0


@pytest.mark.parametrize("reason", [None, "there is no TensorRT"])
def test_pytorch_stands_in_where_no_tensorrt_runs(reason, monkeypatch, two_layers, tmp_path):
    monkeypatch.setattr(gpu_engines, "tensorrt_missing", lambda: reason)
    products = {product.name: product for product in gpu_engines.products()}
    assert products[report_gpu.PRODUCT].missing() == reason
    assert (report_gpu.STAND_IN in products) == (reason is not None)
    if reason is None:
        return
    product = products[report_gpu.STAND_IN]
    assert product.missing() is None
    network = partial(HostTorchNetwork, put_double_in_place(monkeypatch))
    monkeypatch.setattr(gpu_engines, "open_with_torch", partial(open_with_torch, network=network))
    (tmp_path / "cnn14-tensors.onnx").write_bytes(two_layers.read_bytes())
    with product.open("cnn14", "latency", tmp_path, warmup=[(1, 1.0)]) as engine:
        assert engine.backend.startswith("pytorch-fp16")
        assert engine.stats.graphs == 1


def test_first_calls(short_vggish, folder, monkeypatch):
    monkeypatch.setattr(cases_gpu, "FIRST_MODEL", "vggish")
    monkeypatch.setattr(cases_gpu, "FIRST_CALLS", 2)
    records = list(cases_gpu.first_call(folder))
    assert [record["contender"] for record in records] == [
        "fusion_engine, here",
        "fusion_engine, here, warmed up",
        "fusion_engine, there",
        "fusion_engine, there, warmed up",
        "PyTorch eager FP16",
        "torch.compile max-autotune FP16",
    ]
    timed = [record for record in records if "not_measured" not in record]
    assert all(r["1s_ms"]["first"] > 0 and r["10s_ms"]["last"] > 0 for r in timed)
    assert len(report_gpu.first_calls(timed).splitlines()) == 2 + len(timed)


def test_operations_of_a_clip():
    got = {m: [cases_gpu.operations(m, s) for s in (1, 10)] for m in cases_gpu.MODELS}
    assert got == {"cnn14": [4e9, 40e9], "vggish": [1.7e9, 17e9], "ast": [261e9, 261e9]}


def test_the_arithmetic_of_samples():
    got = gpu_timing.percentiles([[1.0, 3.0], [2.0, 10.0, 4.0]], 1e3)
    values = [1e3, 3e3, 2e3, 10e3, 4e3]
    assert [got["p50"], got["p99"]] == pytest.approx(np.percentile(values, [50, 99]))
    assert (got["min"], got["calls"], got["rounds"]) == (1e3, 5, [2e3, 4e3])
    faster = gpu_timing.speed_up([[1.0, 1.0], [2.0, 2.0, 9.0]], [[3.0, 3.0], [2.0, 2.0, 1.0]])
    assert faster["samples"] == [3.0, 1.0]
    assert faster["median"] == 2.0
    # 40 GFLOP in half a millisecond.
    assert gpu_timing.teraflops(40e9, 5e-4) == pytest.approx(80.0)


def test_the_bandwidth_is_a_fraction_of_the_copys():
    got = gpu_timing.bandwidth(4_000_000, 2e-6, 1.6e-6)
    assert got["kernel_gb_per_s"] == pytest.approx(2_000)
    assert got["copy_gb_per_s"] == pytest.approx(2_500)
    assert got["fraction_of_copy"] == pytest.approx(0.8)


def quantiles(p50: float) -> dict[str, Any]:
    return {"p50": p50, "p99": 2 * p50, "min": p50, "calls": 1, "rounds": [p50]}


def kernel_record(case: str, p50: float, fraction: float) -> dict[str, Any]:
    figures = gpu_timing.bandwidth(1_000, 1e-6 * p50, 1e-6 * p50 * fraction)
    spent = {"kernel_us": quantiles(p50), "copy_us": quantiles(p50 * fraction)}
    return {"case": case, "title": case, "contender": "fusion_engine", **spent, **figures}


@pytest.fixture
def made_up():
    """Results with an aim met, one missed, one not measured and one failed."""
    cnn14 = {"case": "gpu-cnn14-10s", "title": "CNN14-Fusion, 10 s"}
    timed = {
        "host_ms": quantiles(0.4),
        "device_ms": quantiles(0.25),
        "latency_tflops": 160.0,
        "device_clips_per_s": 12_000.0,
        "host_clips_per_s": 9_000.0,
        "batch": 64,
        "throughput_tflops": 480.0,
        "speed_up": {"host_ms": {report_gpu.EAGER: {"median": 3.5, "q1": 3.4, "q3": 3.6}}},
    }
    results = [
        kernel_record("gpu-fusion-fp16-nhwc-b64", 50.0, 0.85),
        kernel_record("gpu-fusion-fp16-nhwc-b1", 6.0, 0.5),
        {
            "case": "gpu-frontend-cnn14-b1",
            "title": "f",
            "contender": "fusion_engine",
            "failed": "E",
        },
        {**cnn14, "contender": report_gpu.PRODUCT, **timed},
        {**cnn14, "contender": "fusion_engine, ONNX Runtime FP32", "not_measured": "no such thing"},
    ]
    gpu = {"name": "NVIDIA H200", "cuda": "13.0", "driver": "580", "sm_clock": "1980 MHz"}
    described = {**machine.describe_host(2), "gpu": gpu}
    return {"suite": "gpu", "date": "2022-08-29", "machine": described, "results": results}


def test_the_report_of_made_up_results(made_up):
    text = report.block(made_up)
    for row in (
        "| CNN14-Fusion FP16, 10 s, batch 1, host to host, p50 | ≤ 0.5 ms | **0.40 ms** |",
        "| CNN14-Fusion FP16, 10 s, host to host, best batch | ≥ 10 000 clips/s | 9000 clips/s |",
        "| CNN14-Fusion FP16, 10 s, batch 1, against PyTorch eager FP16 | ≥ 3× | **3.50×** |",
        "| fusion kernel, batch 64, FP16 NHWC, of the copy bandwidth | ≥ 80 % | **85.0 %** |",
        "| fusion kernel, batch 64, FP32 NCHW, of the copy bandwidth | ≥ 80 % | not measured |",
        "| fusion kernel, batch 1, FP16 NHWC, p50 | ≤ 5 µs | 6.00 µs |",
        "| frontend kernel, CNN14, 10 s, batch 1, p50 | ≤ 15 µs | failed: E |",
        "| 0.40 (0.80) | 0.25 (0.50) | 160 | 9000 | 12000 (64) | 480 | **3.50×** (3.40–3.60) |",
        "| fusion_engine, ONNX Runtime FP32 | not measured: no such thing | 1, from CNN14-Fusion",
        "NVIDIA H200, driver 580, CUDA 13.0, SM clock as read 1980 MHz;",
    ):
        assert row in text, row
    assert "fills this table" not in text
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_the_report_names_what_stood_in(made_up):
    """No aim of TensorRT's is reached by it."""
    ours = next(r for r in made_up["results"] if r["contender"] == report_gpu.PRODUCT)
    assert "No TensorRT runs" not in report.block(made_up)
    ours |= {"contender": report_gpu.STAND_IN, "backend": "pytorch-fp16 2.11.0 on NVIDIA H100"}
    ours |= {"graph_ms": 0.35, "network_ms": 0.33}
    text = report.block(made_up)
    for row in (
        "| CNN14-Fusion FP16, 10 s, batch 1, host to host, p50 | ≤ 0.5 ms | not measured |",
        f"| CNN14-Fusion, 10 s | {report_gpu.STAND_IN} | 0.40 (0.80) |",
        "| pytorch-fp16 2.11.0 on NVIDIA H100 | 0.40 | 0.35 | 0.33 | 20.0 | 50.0 |",
        f"No TensorRT runs on this machine. `{report_gpu.STAND_IN}` is the engine with PyTorch's",
    ):
        assert row in text, row


def test_without_results_no_figure_is_invented(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    (empty,) = report.committed()
    text = report.block(empty)
    assert text.count("| not measured |") == len(report_gpu.AIMS)
    assert "`make bench-gpu` fills this table" in text
    assert "bench-gpu:" in (machine.ROOT / "Makefile").read_text()


def test_results_are_on_disk_after_every_case(monkeypatch, tmp_path, capsys):
    output = tmp_path / "gpu.json"
    seen = []

    def toy(name: str, fields: dict[str, Any]) -> Case:
        def produce():
            seen.append(len(json.loads(output.read_text())["results"]) if output.exists() else 0)
            yield {"contender": "fusion_engine", **fields}

        return Case(name, name, lambda folder: [Records(produce)])

    monkeypatch.setattr(cases_gpu, "missing", lambda: None)
    monkeypatch.setattr(machine, "describe_gpu", lambda: {"gpu": {"name": "none"}})
    toys = (toy("a", {"kernel_us": quantiles(3.0)}), toy("b", {"failed": "E"}), toy("c", {}))
    monkeypatch.setattr(cases_gpu, "cases", lambda: toys)
    assert run.main(["--suite", "gpu", "--output", str(output)]) == 1  # b failed
    assert seen == [0, 1, 2]
    written = json.loads(output.read_text())
    assert [record["case"] for record in written["results"]] == ["a", "b", "c"]
    assert written["machine"]["gpu"] == {"name": "none"}
    said = capsys.readouterr().err
    assert "kernel_us 3" in said
    assert "failed: E" in said


def test_what_the_driver_says_of_the_gpu(monkeypatch):
    def answer(command: list[str], **options: Any) -> SimpleNamespace:
        asked = command[-1].removeprefix("--query-gpu=").split(",")
        return SimpleNamespace(stdout=", ".join(asked) + "\n")

    monkeypatch.setattr(machine.subprocess, "run", answer)
    assert machine._smi()["driver"] == "driver_version"
    assert machine._smi()["sm_clock"] == "clocks.sm"

    def absent(command: list[str], **options: Any) -> None:
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(machine.subprocess, "run", absent)
    assert machine._smi() == {}


def test_calls_fit_the_functions_they_are_for():
    """The suite's arguments to what only a GPU runs."""
    inspect.signature(build).bind(
        "x.onnx", "x.plan", precision="fp16", **gpu_engines.profile("cnn14", "latency")
    )
    for name in ("fuse_cuda", "log_mel_cuda", "DeviceLayer"):
        assert hasattr(_core, name)
    for product in gpu_engines.products():
        inspect.signature(product.file).bind("cnn14", "latency", Path())
        inspect.signature(Engine).bind("x.plan", device="cuda", warmup=[(1, 10.0)])


def test_the_profile_holds_what_is_run():
    """Latency plans take a clip of 1 and of 10 s, throughput plans the largest batch of both."""
    for model in cases_gpu.MODELS:
        backbone = resolve(model)
        for purpose, clips in (("latency", 1), ("throughput", max(cases_gpu.BATCHES))):
            given = gpu_engines.profile(model, purpose)
            for seconds in cases_gpu.SECONDS:
                frames = backbone.frontend.frames(seconds * backbone.frontend.sample_rate)
                segments = 1
                if model == "vggish":
                    segments = frames // 96
                least, _, most = given["batch"]
                assert least <= clips * segments <= most
                if "seconds" in given:
                    assert given["seconds"][0] <= seconds <= given["seconds"][2]
