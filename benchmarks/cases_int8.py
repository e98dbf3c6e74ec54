"""The cases of the INT8 suite: an 8-bit artifact against FP32, and OpenVINO on the same graph."""

import importlib.util
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusion_engine import Engine
from fusion_engine.export import export
from fusion_engine.export.checkpoint import load_weights
from fusion_engine.quantization import quantize

from . import peers
from .cases_cpu import CNN14, OPENVINO, OURS, PYTORCH, THREADS, ArrayFunction, cnn14, noise
from .harness import AnswerCheck, Case, PeerComparison, Skipped, calls

# The tests' weights have batch-norm statistics at random, of which 8 bits lose a third.
LAYERS, WEIGHTS = (3, 6), "random:0"
# Relative L2 of an embedding against FP32, and between two libraries that round alike.
LOSS = 0.1


def cases() -> tuple[Case, ...]:
    """All of them, in the order of the report."""
    return tuple(
        Case(
            f"int8-{seconds}s-b{batch}",
            f"INT8, embed {seconds} s, batch {batch}",
            partial(embed, batch, seconds),
        )
        for seconds, batch in ((1, 1), (10, 1), (10, 8))
    )


def embed(batch: int, seconds: int, folder: Path) -> list[Any]:
    """Samples to embeddings in INT8, against FP32 here and elsewhere."""
    samples = noise(batch, seconds)
    artifact, small = folder / "fp32.onnx", folder / "int8.onnx"
    if not small.exists():
        export("cnn14", artifact, layers=LAYERS, weights=WEIGHTS)
        quantize(artifact, small)
    whole = Engine(artifact, device="cpu", threads=THREADS)
    engine = Engine(small, device="cpu", threads=THREADS)
    ours = partial(engine.embed, samples)
    eager = peers.EagerCnn14(stock(), engine.spec.layers)
    found: list[Any] = [
        compare(f"{OURS}, FP32", ours, partial(whole.embed, samples)),
        compare(PYTORCH, ours, partial(eager, samples)),
    ]
    if importlib.util.find_spec("openvino") is None:
        return [*found, Skipped(OPENVINO, "not installed: pip install openvino")]
    for name, path in (("FP32", artifact), ("INT8, the same graph", small)):
        peer = peers.OpenVinoCnn14(path, engine.spec, THREADS)
        found.append(compare(f"{OPENVINO}, {name}", ours, partial(peer, samples)))
    return found


@cache
def stock() -> torch.nn.Module:
    """PANNs' own model with the artifact's weights."""
    model = deepcopy(cnn14())
    state, _ = load_weights(CNN14, WEIGHTS)
    model.load_state_dict(state, strict=False)  # but for its classifier
    return model


def compare(peer: str, ours: ArrayFunction, theirs: ArrayFunction) -> PeerComparison:
    """Two ways to the same embeddings, of which one is in 8 bits."""

    def check() -> AnswerCheck:
        wanted, got = theirs(), ours()
        lost = np.linalg.norm(got - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
        return AnswerCheck("largest relative L2 error", float(lost.max()), LOSS)

    return PeerComparison(calls(f"{OURS}, INT8", ours), calls(peer, theirs), check)
