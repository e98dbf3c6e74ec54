"""Specs with fields that are other ones: each is refused, or an engine runs with it.

``python -m tests.fuzz.specs --count 10000 --seed 0``
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import fusion_engine as fe
from fusion_engine.spec import METADATA_KEY, Spec
from tests.engine.cuda.artifacts import SPECS, write_artifact

from .isolated import main

CLIP = np.sin(np.arange(17_600, dtype=np.float32))
# The shortest inputs above are allowed, and take longer than a fuzzer has time for.
MOST_SAMPLES, MOST_VALUES = 2**20, 2**20

VALUES = [
    *(0, 1, -1, 2, 3, 7, 16, 64, 96, 511, 512, 1023, 2**15, 2**16, 2**20, 2**31 - 1, 2**31, 2**63),
    *(10**400, -96, 0.0, -0.0, 0.5, 1e-320, 1e-38, 1e-10, 1e15, 1e300, -1e300, 8000.5),
    *(None, True, False, "", "map", "vector", "reflect", "none", "hann_symmetric", "kaldi"),
    *("power", "magnitude", "db", "ln_add", "ln_max", "mean", "drop", "pad", "fp16", "cls"),
    *("\ud800", "\x1b[0m", "x" * 5000, [], {}, [[]], {"a": {}}, [1, 2, 3]),
]
TOKENS = ["NaN", "Infinity", "-Infinity", "1e400", "9" * 5000, "[" * 3000, "{", "nul", '"\\u12"']


def mutated(text: str, rng: random.Random) -> str:
    """JSON with some fields changed, removed, added or given twice."""
    data = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        target: Any = data
        while True:
            keys = list(range(len(target)) if isinstance(target, list) else target)
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(target[key], dict | list) and rng.random() < 0.9:
                target = target[key]
                continue
            _change(target, key, rng)
            break
    made = json.dumps(data)
    if rng.random() < 0.1:
        made = made.replace(
            rng.choice(["16000", "160", "null", "32", '"fp32"']), rng.choice(TOKENS)
        )
    if rng.random() < 0.05:
        made = made.replace("{", '{"min_frames":96,', 1)
    return made


def _change(target: Any, key: Any, rng: random.Random) -> None:
    value, way = target[key], rng.randrange(10)
    if way == 0:
        del target[key]
    elif way == 1 and isinstance(target, dict):
        target[f"{key}_"] = value
    elif way == 2 and isinstance(target, list):
        target *= rng.choice((2, 40, 2000))
    elif way < 6 and type(value) in (int, float):
        target[key] = rng.choice(
            (value + 1, value - 1, value * 2, value // 2, -value, value * 1000)
        )
    else:
        target[key] = rng.choice(VALUES)


def outcome(path: Path) -> str:
    """What opening an artifact and embedding with it comes to."""
    try:
        with fe.Engine(path, device="cpu", threads=1) as engine:
            spec = engine.spec
            least = spec.min_frames
            samples, values = spec.frontend.samples(least), least * spec.frontend.n_mels
            if samples > MOST_SAMPLES or values > MOST_VALUES:
                return "opened, not run"
            results = [engine.embed(CLIP), engine.embed([CLIP[:1], CLIP])]
            if all(layer.kind == "map" for layer in spec.layers):
                results.append(engine.embed_frames(CLIP))
            engine.layer_outputs(CLIP)  # as the graph gives them, finite or not
    except fe.FusionEngineError as error:
        if len(str(error)) > 2000:
            return f"! message of {len(str(error))} characters: {str(error)[:300]}"
        return type(error).__name__
    except Exception as error:
        return f"! raw {type(error).__name__}: {error}"[:400]
    if not all(np.isfinite(result).all() for result in results):
        return "! not finite"
    return "ran"


def case(seed: int, index: int, folder: Path) -> str:
    """One spec, in the graph that it was about."""
    if index < 0:
        for name, spec in SPECS.items():
            write_artifact(folder / f"{name}.onnx", spec)
        return outcome(folder / "chunked.onnx")
    rng = random.Random(f"{seed} {index}")
    name = rng.choice(list(SPECS))
    text = mutated(SPECS[name].to_json(), rng)
    try:
        spec = Spec.from_json(text, where="fuzz")
    except fe.ArtifactError as error:
        return "refused" if len(str(error)) < 2000 else f"! message of {len(str(error))}"
    except Exception as error:
        return f"! raw {type(error).__name__}: {error}"[:400]
    if Spec.from_json(spec.to_json()) != spec:
        return "! another spec after a round trip"
    model = onnx.load(folder / f"{name}.onnx")
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=text)
    onnx.save(model, folder / "case.onnx")
    return outcome(folder / "case.onnx")


if __name__ == "__main__":
    main(case, __doc__)
