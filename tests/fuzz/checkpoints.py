"""Mutated checkpoints: each is read, or refused with an error of fusion_engine, in bounds.

    python -m tests.fuzz.checkpoints --count 10000 --seed 0

A worker reads them in a process of its own under a memory limit; the parent notices when it ends or
hangs. The same seed makes the same files. A file that fails is kept in the folder that is named.
"""

import argparse
import collections
import contextlib
import io
import json
import logging
import os
import pickletools
import random
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_SECONDS = 5.0  # for one file
_MEMORY = 1 << 30  # bytes beyond what the libraries take
_START_SECONDS = 120.0
_ANCHORS = ("conv.weight",)
_SHAPES = {"conv.weight": (2, 3), "conv.bias": (4,)}
_EXTREME = (0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1)
_NAMES = (
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor", "torch FloatStorage"),
    *("torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter", "torch Tensor"),
    *("torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_qtensor", "torch Size"),
    *("torch._utils _rebuild_nested_tensor", "torch._tensor _rebuild_from_type_v2"),
    *("torch DoubleStorage", "torch.storage UntypedStorage", "torch ByteStorage", "torch device"),
    *("numpy dtype", "numpy ndarray", "numpy.core.multiarray _reconstruct", "_codecs encode"),
    *("numpy._core.multiarray scalar", "collections OrderedDict", "collections Counter"),
    *("__builtin__ bytearray", "builtins set", "builtins eval", "posix system", "os system"),
)
_ONE_BYTE = b"()]}.0123NQRabdehijlopqrstu\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94"


def originals(folder: Path) -> list[bytes]:
    """Small checkpoints in all formats that are read."""
    import torch
    from safetensors.torch import save

    state = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(4).half()}
    sampler = {
        "indexes": np.arange(5),
        "pointer": np.int64(3),
        "names": np.array(["a", "bc"]),
        "queue": [1, 2],
    }
    contents: tuple[Any, ...] = (
        state,
        {"iteration": 600_000, "model": state, "sampler": sampler},
        {
            "epoch": 3,
            "state_dict": {f"model.module.{k}": torch.nn.Parameter(v) for k, v in state.items()},
            "model_ema": {k: v[:1].expand(v.shape) for k, v in state.items()},
            "optimizer": {"state": {0: {"step": torch.tensor(2)}}, "param_groups": [{"lr": 0.1}]},
        },
        torch.nn.Sequential(collections.OrderedDict(conv=torch.nn.Linear(3, 2))).state_dict(),
        {"model": {**state, "sparse": torch.eye(2).to_sparse(), "view": state["conv.weight"].T}},
    )
    made = [save(state, metadata={"format": "pt"})]
    for content in contents:
        for zipped in (True, False):
            path = folder / "original"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            made.append(path.read_bytes())
    return made


def mutate(raw: bytes, draw: random.Random) -> bytes:
    """``raw``, changed in its bytes or in its structure."""
    changes: list[Callable[[bytes, random.Random], bytes]] = [_bytes]
    if raw.startswith(b"PK"):
        changes += 3 * [_archive]
    elif raw.startswith(b"\x80"):
        changes += 3 * [_legacy]
    else:
        changes += 3 * [_header]
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        with contextlib.suppress(Exception):  # what was changed before may not be of its kind now
            raw = draw.choice(changes)(raw, draw)
    return raw


def _bytes(raw: bytes, draw: random.Random) -> bytes:
    data = bytearray(raw or b"\0")
    at = draw.randrange(len(data))
    match draw.randrange(6):
        case 0:
            for _ in range(draw.choice((1, 1, 2, 8, 64))):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        case 1:
            data[at : at + draw.randrange(1, 32)] = draw.randbytes(draw.randrange(32))
        case 2:
            del data[at:]
        case 3:
            del data[at : at + draw.choice((1, 2, 8, 100, 1000))]
        case 4:
            data[at:at] = data[draw.randrange(len(data)) :][: draw.choice((1, 8, 100, 1000))]
        case 5:
            size = draw.choice((1, 2, 4, 8))
            number = draw.choice(_EXTREME) & ((1 << 8 * size) - 1)
            data[at : at + size] = number.to_bytes(size, "little")
    return bytes(data)


def _archive(raw: bytes, draw: random.Random) -> bytes:
    """The archive written anew around a changed pickle, or with other files."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    names = list(files)
    name = draw.choice(names)
    match draw.randrange(8):
        case 0:
            files[name] = _bytes(files[name], draw)
        case 1:
            files[draw.choice((name + "x", name.upper(), "../" + name, "a/data.pkl"))] = files.pop(
                name
            )
        case 2:
            del files[name]
        case _:
            for name in names:
                if name.endswith("data.pkl"):
                    files[name] = _operations(files[name], draw)
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if draw.random() < 0.05 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", kind) as archive:
        warnings.simplefilter("ignore")
        for name, data in files.items():
            archive.writestr(name, data)
        if draw.random() < 0.05:
            archive.writestr(draw.choice(list(files) or ["x"]), bytes(draw.choice((1, 10**6))))
    return out.getvalue()


def _legacy(raw: bytes, draw: random.Random) -> bytes:
    """The old format with one of its five pickles changed."""
    stream = io.BytesIO(raw)
    ends = [0]
    for _ in range(5):
        for _ in pickletools.genops(stream):
            pass
        ends.append(stream.tell())
    which = draw.choice((0, 1, 2, 3, 3, 3, 3, 3, 3, 4))
    changed = _operations(raw[ends[which] : ends[which + 1]], draw)
    return raw[: ends[which]] + changed + raw[ends[which + 1] :]


def _operations(pickled: bytes, draw: random.Random) -> bytes:
    """A pickle with operations changed, added, moved or left out."""
    at = [position for _, _, position in pickletools.genops(pickled)]
    parts = [pickled[a:b] for a, b in zip(at, [*at[1:], len(pickled)], strict=True)]
    for _ in range(draw.choice((1, 1, 2, 3, 8))):
        if not parts:
            break
        i, j = draw.randrange(len(parts)), draw.randrange(len(parts))
        match draw.randrange(7):
            case 0:
                del parts[i : i + draw.choice((1, 1, 2, 5, 20))]
            case 1:
                parts[i:i] = parts[j : j + draw.choice((1, 2, 5, 20))]
            case 2:
                parts[i], parts[j] = parts[j], parts[i]
            case 3:
                numbers = [n for n, part in enumerate(parts) if part[:1] in (b"K", b"M", b"J")]
                parts[draw.choice(numbers or [i])] = _number(draw)
            case 4:
                names = [n for n, part in enumerate(parts) if part[:1] == b"c"]
                parts[draw.choice(names or [i])] = _name(draw)
            case 5:
                parts.insert(i, draw.choice((_number, _name, _operation))(draw))
            case 6:
                parts[i:i] = [_operation(draw) for _ in range(draw.choice((2, 5, 1000)))]
    return b"".join(parts)


def _number(draw: random.Random) -> bytes:
    value = draw.choice(_EXTREME) * draw.choice((1, 1, 1, -1))
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def _name(draw: random.Random) -> bytes:
    return b"c" + draw.choice(_NAMES).replace(" ", "\n").encode() + b"\n"


def _operation(draw: random.Random) -> bytes:
    match draw.randrange(6):
        case 0:
            return b"r" + struct.pack("<I", draw.choice((0, 5, 2**31, 2**32 - 1)))
        case 1:
            return b"X" + struct.pack("<I", draw.choice((0, 1, 2**31, 2**32 - 1))) + b"a"
        case 2:
            return draw.choice((b"h", b"q", b"K")) + bytes([draw.randrange(64)])
        case _:
            return bytes([draw.choice(_ONE_BYTE)])


def _header(raw: bytes, draw: random.Random) -> bytes:
    """A safetensors file with its header changed."""
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    name = draw.choice(list(header))
    match draw.randrange(7):
        case 0:
            header[name]["shape"] = [draw.choice(_EXTREME) for _ in range(draw.randrange(5))]
        case 1:
            header[name]["data_offsets"] = [draw.choice(_EXTREME) for _ in range(2)]
        case 2:
            header[name]["dtype"] = draw.choice(
                ("F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "X")
            )
        case 3:
            header[name] = draw.choice((None, [], 3, {}, {"a": [[[[]]]]}, "x" * 10**5))
        case 4:
            header = {f"{name}{i}": header[name] for i in range(draw.choice((2, 1000)))}
        case 5:
            length = draw.choice(_EXTREME)
            return length.to_bytes(8, "little") + raw[8:]
        case 6:
            text = json.dumps(header).encode()
            text = b"[" * 10**5 if draw.random() < 0.3 else text[:-1] + b"," + text[1:]
            return len(text).to_bytes(8, "little") + text + data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def files(seed: int, folder: Path) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Mutated files without an end, and a choice of what to read of each."""
    made = originals(folder)
    draw = random.Random(seed)
    while True:
        raw = mutate(draw.choice(made), draw)
        choice = {}
        if draw.random() < 0.1:
            choice["key"] = draw.choice(
                ("model", "model_ema", "state_dict", "x.y", "optimizer.state")
            )
        if draw.random() < 0.1:
            choice["prefix"] = draw.choice(("model", "model.module.", "", "conv"))
        yield raw, choice


def work() -> None:
    """Read the files that stdin names, one line each, and say how it ended."""
    import torch

    from fusion_engine import FusionEngineError
    from fusion_engine.export.checkpoint import fit_tensors, read_checkpoint

    def read(path: Path, choice: Mapping[str, str]) -> None:
        state = read_checkpoint(path, anchors=_ANCHORS, **choice)
        for tensor in state.values():
            if tensor.numel() < 10**6:  # every value is read, an address beyond ends the process
                tensor.contiguous().flatten().view(torch.uint8).sum()
        with contextlib.suppress(FusionEngineError):  # it was read, whatever it holds
            fit_tensors(state, _SHAPES)

    torch.set_num_threads(1)
    logging.disable()
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + _MEMORY, resource.RLIM_INFINITY))
    print("ready", flush=True)
    for line in sys.stdin:
        path, choice = json.loads(line)
        started = time.monotonic()
        try:
            read(Path(path), choice)
            outcome = "read"
        except FusionEngineError as error:
            outcome = "out of memory" if "memory" in str(error) else "refused"
        except BaseException as error:
            outcome = f"raw {type(error).__name__}: {error}"
        slow = time.monotonic() - started > _SECONDS
        print(json.dumps("hung" if slow else outcome), flush=True)


class Worker:
    """A process that reads files until one of them ends it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.fuzz.checkpoints", "--worker"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe)
        if self._line(_START_SECONDS) != b"ready\n":
            raise RuntimeError("the worker does not start")

    def outcome(self, path: Path, choice: Mapping[str, str]) -> str:
        """How the reading of ``path`` ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([os.fspath(path), choice]).encode() + b"\n")
        self._process.stdin.flush()
        line = self._line(2 * _SECONDS)
        if line is None:
            return "hung"
        return str(json.loads(line)) if line else f"crashed, status {self._process.wait()}"

    def _line(self, seconds: float) -> bytes | None:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return self._process.stdout.readline() if ready else None

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def run(count: int, seed: int, keep: Path) -> collections.Counter[str]:
    """How the reading of ``count`` files ended; those that failed lie in ``keep``."""
    outcomes: collections.Counter[str] = collections.Counter()
    worker = Worker()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutated.pth"
        made = files(seed, Path(folder))
        for number in range(count):
            raw, choice = next(made)
            path.write_bytes(raw)
            outcome = worker.outcome(path, choice)
            outcomes[outcome] += 1
            if outcome not in ("read", "refused"):
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{number}.pth").write_bytes(raw)
                worker.close()
                worker = Worker()
    worker.close()
    return outcomes


def main() -> int:
    """Run, print how often what happened; 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-checkpoints"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work()
        return 0
    outcomes = run(args.count, args.seed, args.keep)
    for outcome, times in outcomes.most_common():
        print(f"{times:8d}  {outcome}")
    return int(not outcomes.keys() <= {"read", "refused"})


if __name__ == "__main__":
    sys.exit(main())
