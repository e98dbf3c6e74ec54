"""The cases of the CPU suite."""

import functools
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fusion_engine import Engine, _core
from fusion_engine.export import export
from fusion_engine.export.backbones import resolve
from fusion_engine.export.backbones.cnn14 import FRAMES_PER_STEP
from fusion_engine.frontend import Frontend
from tests import oracles, signals

from . import peers
from .harness import AnswerCheck, Case, Contender, PeerComparison, Sampler, Skipped, calls
from .machine import ROOT, usable_cores

THREADS = usable_cores()
CNN14 = resolve("cnn14")
RATE = CNN14.frontend.sample_rate

# Fractions of the largest value. The stock model's FP32 spectrogram is in the first; the second has
# the same graph and log-mel on both sides, the third FP32 sums of 31 frames.
STOCK, SAME_GRAPH, FUSION = 1e-4, 5e-6, 1e-6
# torchlibrosa's FP32 convolution on noise.
FRONTEND_DB = 1e-3

OURS, PYTORCH, OPENVINO = "fusion_engine", "PyTorch, eager", "OpenVINO"
HEAVY = ("torch", "onnxruntime", "tensorrt", "openvino")

ArrayFunction = Callable[[], NDArray[Any]]


def cases() -> tuple[Case, ...]:
    """All of them, in the order of the report. Gives PyTorch its number of threads."""
    torch.set_num_threads(THREADS)
    return (
        *(
            Case(
                f"embed-{seconds}s-b{batch}",
                f"embed {seconds} s, batch {batch}",
                partial(embed, (3, 6), batch, seconds),
            )
            for seconds in (1, 10)
            for batch in (1, 8)
        ),
        Case(
            "embed-10s-b1-layer3", "embed 10 s, batch 1, `--layers 3`", partial(embed, (3,), 1, 10)
        ),
        *(
            Case(
                f"frontend-10s-b{batch}",
                f"frontend alone, 10 s, batch {batch}",
                partial(frontend, batch, 10),
            )
            for batch in (1, 8)
        ),
        *(
            Case(
                f"fusion-10s-b{batch}",
                f"fusion alone, 10 s, batch {batch}",
                partial(fusion, (3, 6), batch, 10),
            )
            for batch in (1, 8)
        ),
        Case("import", "`import fusion_engine`", partial(import_time, "import fusion_engine")),
        Case(
            "import-engine",
            "`from fusion_engine import Engine`",
            partial(import_time, "from fusion_engine import Engine"),
        ),
    )


def embed(layers: tuple[int, ...], batch: int, seconds: int, folder: Path) -> list[Any]:
    """Samples to embeddings, against PyTorch and against OpenVINO on the same artifact."""
    samples = noise(batch, seconds)
    artifact = exported(layers, folder)
    engine = Engine(artifact, device="cpu", threads=THREADS)
    ours = partial(engine.embed, samples)
    eager = partial(peers.EagerCnn14(cnn14(), engine.spec.layers), samples)
    comparisons: list[PeerComparison | Skipped] = [same_arrays(PYTORCH, ours, eager, STOCK)]
    if importlib.util.find_spec("openvino") is None:
        return [*comparisons, Skipped(OPENVINO, "not installed: pip install openvino")]
    openvino = partial(peers.OpenVinoCnn14(artifact, engine.spec, THREADS), samples)
    return [*comparisons, same_arrays(OPENVINO, ours, openvino, SAME_GRAPH)]


def frontend(batch: int, seconds: int, folder: Path) -> list[PeerComparison]:
    """Samples to log-mel, against the torchlibrosa modules of PANNs."""
    samples = noise(batch, seconds)
    ours = partial(Frontend(CNN14.frontend, threads=THREADS).batch, list(samples))

    def peer() -> NDArray[np.float32]:
        return peers.to_numpy(peers.log_mel(cnn14(), samples))

    def check() -> AnswerCheck:
        return AnswerCheck(
            "largest difference in dB", float(np.abs(ours() - peer()).max()), FRONTEND_DB
        )

    return [PeerComparison(calls(OURS, ours), calls("torchlibrosa", peer), check)]


def fusion(layers: tuple[int, ...], batch: int, seconds: int, folder: Path) -> list[PeerComparison]:
    """Layer outputs to embeddings, against PyTorch in two forms on the same memory."""
    frames = CNN14.frontend.frames(seconds * RATE)
    chosen = [CNN14.layers[number] for number in layers]
    pools = [layer.time_pool for layer in chosen]
    rng = np.random.default_rng(0)
    maps = [
        rng.standard_normal(
            (batch, layer.channels, frames * layer.time_pool // FRAMES_PER_STEP, layer.freq),
            np.float32,
        )
        for layer in chosen
    ]
    tensors = [torch.from_numpy(x) for x in maps]

    def ours() -> NDArray[np.float32]:
        return _core.fuse(maps, pools, threads=THREADS)[0]

    def torch_form(form: Any) -> NDArray[np.float32]:
        with torch.inference_mode():
            return peers.to_numpy(form(tensors, pools))

    return [
        same_arrays(f"PyTorch, {name}", ours, partial(torch_form, form), FUSION)
        for name, form in (
            ("textbook", peers.fuse_textbook),
            ("reduced before flattening", peers.fuse_reduced_first),
        )
    ]


def import_time(statement: str, folder: Path) -> list[PeerComparison]:
    """A fresh interpreter's import, against the import of panns_inference and PyTorch."""

    def check() -> AnswerCheck:
        program = f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
        loaded = set(json.loads(interpreter(program))).intersection(HEAVY)
        return AnswerCheck(f"modules loaded out of {', '.join(HEAVY)}", len(loaded), 0)

    # The oracle's way in, since the package fetches a label file when imported.
    peer = "from tests.oracles import panns_models; panns_models()"
    return [
        PeerComparison(
            Contender(OURS, partial(import_sampler, statement)),
            Contender("import panns_inference", partial(import_sampler, peer)),
            check,
        )
    ]


def import_sampler(statement: str) -> Sampler:
    """Wall time of ``statement`` in a new interpreter, less the interpreter's own start and end."""

    def seconds(program: str) -> float:
        start = time.perf_counter()
        interpreter(program)
        return time.perf_counter() - start

    seconds(statement)  # writes the bytecode, and brings the files into memory
    return lambda: seconds(statement) - seconds("pass")


def interpreter(program: str) -> str:
    """What ``program`` prints, run at the root of the checkout."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def same_arrays(
    name: str, ours: ArrayFunction, peer: ArrayFunction, tolerance: float
) -> PeerComparison:
    """Ours against a peer that gives the same array."""

    def check() -> AnswerCheck:
        got, expected = ours(), peer()
        if got.shape != expected.shape:
            raise ValueError(f"{name} gives {expected.shape}, ours {got.shape}")
        error = float(np.abs(got - expected).max() / np.abs(expected).max())
        return AnswerCheck("largest difference / largest value", error, tolerance)

    return PeerComparison(calls(OURS, ours), calls(name, peer), check)


def noise(batch: int, seconds: int) -> NDArray[np.float32]:
    """Samples [B, N]. On noise an FP32 spectrogram comes closest to the exact one."""
    return np.stack([signals.noise(seconds, RATE, seed) for seed in range(batch)])


@functools.cache
def cnn14() -> torch.nn.Module:
    """The stock model, with the random weights of the tests."""
    return oracles.panns_cnn14(RATE)


def exported(layers: Sequence[int], folder: Path) -> Path:
    """Its artifact, made once per run."""
    artifact = folder / f"cnn14_{'_'.join(map(str, layers))}.onnx"
    if not artifact.exists():
        weights = folder / "Cnn14_16k.pth"
        torch.save(oracles.panns_checkpoint(cnn14()), weights)
        export("cnn14", artifact, layers=layers, weights=weights)
    return artifact
