"""Artifacts with other bytes, protobuf fields or specs, and plans with their sidecars.

``python -m tests.fuzz.artifacts --count 10000 --seed 0``

A graph that was changed and still loads gives other embeddings: only a SHA-256 beside it can tell.
Half of the cases have one. ONNX Runtime itself may crash on a graph; that is counted.
"""

import json
import random
import struct
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx

import fusion_engine as fe
from fusion_engine.artifact import report_path
from fusion_engine.engine.devices import GpuInfo
from fusion_engine.engine.network_input import LOG_MEL
from fusion_engine.engine.tensorrt.checks import check_machine
from fusion_engine.engine.tensorrt.library import Library
from fusion_engine.engine.tensorrt.network_name import encode_name
from fusion_engine.engine.tensorrt.plan_file import read_plan
from fusion_engine.engine.tensorrt.profile import make_profile, profiles_of
from fusion_engine.engine.tensorrt.sidecar import Sidecar, SourceArtifact, TensorInfo, this_system
from fusion_engine.engine.tensorrt.targets import RTX_DEFAULT_TARGETS
from fusion_engine.spec import METADATA_KEY
from tests.engine.cuda.artifacts import SPECS, write_artifact

from .isolated import main
from .specs import mutated, outcome

VERSION = "1.7.1.116"
LIBRARY = Library("tensorrt_rtx", VERSION, module=None, logger=None, ears=None)  # type: ignore[arg-type]
GPU = GpuInfo(
    index=0,
    name="NVIDIA L4",
    compute_capability=(8, 9),
    total_memory=24 << 30,
    multiprocessors=58,
    driver="13.0",
)


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, removed, put in or repeated."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if not made:
            break
        # The ends, where a file says what it is, more often than the weights.
        at = rng.choice(
            (rng.randrange(len(made)), rng.randrange(len(made)) % 300, -1 - at_end(rng))
        )
        at %= len(made)
        way = rng.randrange(6)
        if way < 3:
            made[at] ^= 1 << rng.randrange(8)
        elif way == 3:
            made[at] = rng.choice((0, 0x7F, 0x80, 0xFF))
        elif way == 4:
            del made[at : at + rng.choice((1, 4, 1000))]
        else:
            made[at:at] = made[at : at + rng.choice((1, 8, 500))]
    if rng.random() < 0.1:
        del made[rng.randrange(len(made) + 1) :]
    return bytes(made)


def at_end(rng: random.Random) -> int:
    return rng.randrange(2000)


def change_field(message: Any, rng: random.Random) -> None:
    """One field of a protobuf message, somewhere in it."""
    while True:
        fields = [
            (field, value) for field, value in message.ListFields() if field.name != "raw_data"
        ]
        if not fields:
            return
        field, value = rng.choice(fields)
        repeated = not hasattr(value, "ListFields") and field.type != field.TYPE_STRING
        repeated = repeated and not isinstance(value, int | float | str | bytes)
        if field.message_type is not None:
            if repeated and rng.random() < 0.1:
                way = rng.randrange(3)
                if way == 0:
                    del value[rng.randrange(len(value))]
                elif way == 1:
                    value.append(value[rng.randrange(len(value))])
                else:
                    del value[:]
                return
            message = value[rng.randrange(len(value))] if repeated else value
            continue
        numbers = (0, 1, -1, 2, 3, 17, 64, 2**31 - 1, -(2**31))
        if field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64):
            numbers += (2**40, 2**63 - 1)
        texts = ("", "log_mel", "layer_2", "Conv", "Relu", "Loop", "x" * 3000, "é")
        if field.type == field.TYPE_STRING:
            new: Any = rng.choice(texts)
        elif field.type == field.TYPE_BYTES:
            new = rng.choice(texts).encode()
        elif field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
            new = rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e30))
        else:
            new = rng.choice(numbers)
        try:
            if isinstance(value, int | float | str | bytes):
                setattr(message, field.name, new)
            elif len(value):
                value[rng.randrange(len(value))] = new
        except (ValueError, TypeError, AttributeError):
            pass  # an enumeration without this value, for example
        return


def onnx_case(data: bytes, path: Path, rng: random.Random) -> str:
    """What an `.onnx` with something changed comes to."""
    way = rng.randrange(3)
    if way == 0:
        made = flipped(data, rng)
    else:
        model = onnx.load_from_string(data)
        if way == 1:
            for _ in range(rng.choice((1, 1, 3))):
                change_field(model, rng)
        else:
            (entry,) = (e for e in model.metadata_props if e.key == METADATA_KEY)
            entry.value = mutated(entry.value, rng)
        made = model.SerializeToString()
    path.write_bytes(made)
    kind, beside = "onnx", report_path(path)
    beside.unlink(missing_ok=True)
    if rng.random() < 0.5:
        kind = "onnx with SHA-256"
        beside.write_text(json.dumps({"sha256": sha256(data).hexdigest()}))
    found = outcome(path)
    return found if found.startswith("!") else f"{kind} {found}"


def plan_bytes(name: str) -> bytes:
    """As TensorRT lays them out, as far as anything is read here."""
    return bytes(164) + struct.pack("<Q", len(name)) + name.encode() + bytes(300)


def sidecar(spec: fe.Spec, plan: bytes) -> str:
    tensors = [("log_mel", "input", (-1, 1, -1, spec.frontend.n_mels))]
    for layer in spec.layers:
        shape = (
            (-1, layer.channels, -1, layer.freq) if layer.kind == "map" else (-1, layer.channels)
        )
        tensors.append((layer.name, "output", shape))
    made = Sidecar(
        sha256=sha256(plan).hexdigest(),
        bytes=len(plan),
        runtime="tensorrt_rtx",
        runtime_version=VERSION,
        gpu=None,
        compute_capability=None,
        targets=RTX_DEFAULT_TARGETS,
        system=this_system(),
        profiles=profiles_of(make_profile(spec), static=True),
        effort=3,
        tiling="none",
        linear_outputs=False,
        input=LOG_MEL,
        tensors=tuple(
            TensorInfo(name=name, mode=mode, shape=shape, dtype="float32", format="linear")  # type: ignore[arg-type]
            for name, mode, shape in tensors
        ),
        activation_bytes=10**6,
        source=SourceArtifact(name="a.onnx", sha256="0" * 64),
        spec=spec,
    )
    return json.dumps(asdict(made), indent=1)


def plan_case(spec: fe.Spec, path: Path, rng: random.Random) -> str:
    """What a plan, its name or its sidecar changed, comes to before TensorRT sees it."""
    name = encode_name(spec)
    if rng.random() < 0.5:
        name = name[:17] + mutated(name[17:-1], rng) + "}"
    data = plan_bytes(name)
    beside = sidecar(spec, data)
    if rng.random() < 0.5:
        data = flipped(data, rng)
        if rng.random() < 0.5:  # as if it had been built so
            found = json.loads(beside) | {"sha256": sha256(data).hexdigest(), "bytes": len(data)}
            beside = json.dumps(found)
    path.write_bytes(data)
    way, other = rng.randrange(4), report_path(path)
    if way == 0:
        other.unlink(missing_ok=True)
    elif way == 1:
        other.write_bytes(flipped(beside.encode(), rng))
    else:
        other.write_text(beside if way == 2 else mutated(beside, rng), errors="surrogatepass")
    try:
        check_machine(read_plan(path), library=LIBRARY, gpu=GPU)
    except fe.FusionEngineError as error:
        if len(str(error)) > 3000:
            return f"! message of {len(str(error))} characters: {str(error)[:300]}"
        return f"plan {type(error).__name__}"
    except Exception as error:
        return f"! raw {type(error).__name__}: {error}"[:400]
    return "plan read"


def case(seed: int, index: int, folder: Path) -> str:
    """One artifact."""
    if index < 0:
        for name, spec in SPECS.items():
            write_artifact(folder / f"{name}.onnx", spec)
        return outcome(folder / "chunked.onnx")
    rng = random.Random(f"{seed} {index}")
    name = rng.choice(list(SPECS))
    if rng.random() < 0.4:
        return plan_case(SPECS[name], folder / "case.plan", rng)
    return onnx_case((folder / f"{name}.onnx").read_bytes(), folder / "case.onnx", rng)


if __name__ == "__main__":
    main(case, __doc__)
